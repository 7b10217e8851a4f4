"""One actor per loaded model, and the handle that callers hold.

Doors: `client` (the handle), `messages` (what the actor understands), `actor` for the tree that starts it.
"""
