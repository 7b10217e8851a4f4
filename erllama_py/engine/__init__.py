"""The room with the threads: one per loaded model, which owns the model's llama.cpp context.

Doors: `backend` (what an inference library must offer), `jobs` (what goes in and comes out), `thread` (the
thread itself), `backends` (which backend a configuration names). Everything else is private to the room.
"""
