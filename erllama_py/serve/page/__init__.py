"""The page at `/`: what the server does, live, a chat to try it, and a drill. It is plain files of this package."""
