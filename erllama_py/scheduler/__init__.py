"""One model's requests as a pure machine: who gets a sequence and cells, what a prompt begins with, what is saved.

No clock, no asyncio, no thread: `(state, event, now) → (state, effects)`. Door: `machine`, `messages` and `state`.
"""
