"""What a caller holds: a model, its sessions and streams, what a look-up says, and functions that the tree runs."""
