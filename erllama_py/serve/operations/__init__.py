"""What operators of a server look at: its health, metrics, tree, cache, logs, and its own description."""
