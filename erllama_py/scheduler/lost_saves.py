"""What was copied out and then not stored: it is copied out again when its sequence is evicted. Pure.

The cache tells the key of each row that it gives up, the first of a chain first. It was saved for one request, and may
be counted on by others: by whoever shares its tokens.
"""

from __future__ import annotations

from erllama_py.cache.keys import TOKEN_BYTES, Identity, prefix_keys
from erllama_py.cache.messages import SaveLost
from erllama_py.scheduler.evicting import forget
from erllama_py.scheduler.messages import Effect
from erllama_py.scheduler.state import State, changed, with_request, with_slot


def save_lost(state: State, lost: SaveLost) -> tuple[State, list[Effect]]:
    """Nobody counts on a row any more, nor on what goes on from it."""
    effects: list[Effect] = []
    for running in state.requests.values():
        # Who waits has not yet asked what is saved. What a request has said itself is not in its prompt.
        if running.stage == "waiting" or running.lost_from <= lost.start:
            continue
        if running.request.id == lost.request_id or _leads(running.request.identity, running.sought.packed, lost):
            captured_to = min(running.captured_to, lost.start)
            state = with_request(state, changed(running, lost_from=lost.start, captured_to=captured_to))
    for slot in state.slots:
        if slot.captured_to <= lost.start or slot.identity is None or not _leads(slot.identity, slot.held, lost):
            continue
        if lost.request_id < 0 and slot.is_kept and state.saving is not None and state.saving.seq_id == slot.seq_id:
            # Copied out for a `SaveAll` just now, and its tier does not take it: again it would be the same.
            state, more = forget(state, slot)
            effects += more
        else:
            state = with_slot(state, changed(slot, captured_to=lost.start))
    return state, effects


def _leads(identity: Identity, packed: bytes, lost: SaveLost) -> bool:
    """Whether these tokens begin with those that the row ends."""
    long_enough = len(packed) >= lost.end * TOKEN_BYTES
    return long_enough and prefix_keys(identity, packed, (lost.end,))[0] == lost.key
