"""What becomes of sequences at rest: copied out where they are not saved, then forgotten. Pure.

To make room everything is copied at once, and what finds no buffer is lost: somebody waits for the cells. Jobs are done
in order, so they are free for whatever is sent after a `Drop`; what was copied comes back as `Captured` with the ticket
of the copy. `saving_all` copies without haste.
"""

from __future__ import annotations

from erllama_py.cache.keys import Identity, prefix_keys
from erllama_py.engine.jobs import Capture, Drop, span_end
from erllama_py.options.model import SaveReason
from erllama_py.scheduler.messages import Effect, SendJob, SessionKey
from erllama_py.scheduler.slots import Slot
from erllama_py.scheduler.state import Copy, State, changed, with_request, with_slot

# Sessions that have lost their sequence and are remembered, some 100 bytes each. One that was silent for so many others
# has long been saved, and needs no key to be found.
MOST_LEFT = 1000


def unsaved(state: State, slot: Slot) -> Identity | None:
    """Whose it is, if a sequence at rest holds something that is to be saved and is not."""
    least = state.limits.min_tokens
    return None if least is None or slot.length < max(least, slot.captured_to + 1) else slot.identity


def copy_out(state: State, slot: Slot) -> tuple[State, list[Effect]]:
    """Save what a sequence at rest holds and is not saved."""
    identity = unsaved(state, slot)
    if identity is None:
        return _left(state, slot, slot.captured_to), []
    state, start = _left(state, slot, slot.length), slot.captured_to
    effects: list[Effect] = []
    while start < slot.length:
        copy = Copy(identity, slot.held, slot.session_id)
        state, job = copy_range(state, slot, copy, start, "evict")
        effects.append(SendJob(job))
        start = job.end
    return state, effects


def copy_range(state: State, slot: Slot, copy: Copy, start: int, reason: SaveReason) -> tuple[State, Capture]:
    """Copy the first of the ranges out of a sequence at rest that are left from `start` on."""
    ticket, end = state.next_ticket, span_end(start, slot.length, state.limits.memory)
    state = changed(state, copies={**state.copies, ticket: copy}, next_ticket=ticket - 1)
    return state, Capture(request_id=ticket, seq_id=slot.seq_id, start=start, end=end, reason=reason)


def _left(state: State, slot: Slot, end: int) -> State:
    """The state in which the session that was held here finds what was saved of it, also while that is on its way."""
    if slot.session is None or slot.identity is None or not end:
        return state
    others = {session: key for session, key in state.left.items() if session != slot.session}
    newest = list(others.items())[-MOST_LEFT + 1 :]
    return changed(state, left={**dict(newest), slot.session: prefix_keys(slot.identity, slot.held, (end,))[0]})


def evict(state: State, slot: Slot) -> tuple[State, list[Effect]]:
    """Save it, and forget it."""
    state, effects = copy_out(state, slot)
    return with_slot(state, Slot(slot.seq_id)), [*effects, SendJob(Drop(slot.seq_id))]


def forget(state: State, slot: Slot) -> tuple[State, list[Effect]]:
    """Forget it, with what is not saved of it."""
    state = with_slot(_left(state, slot, slot.captured_to), Slot(slot.seq_id))
    return state, [SendJob(Drop(slot.seq_id))]


def end_session(state: State, session: SessionKey) -> tuple[State, list[Effect]]:
    """Its sequence is one like all others from now on."""
    state = changed(state, left={other: key for other, key in state.left.items() if other != session})
    for slot in state.slots:
        if slot.session == session:
            state = with_slot(state, changed(slot, session_id=None))
    for running in state.requests.values():
        if running.request.session == session:
            parked = changed(running.parked, session_id=None) if running.parked is not None else None
            running = changed(running, request=changed(running.request, session_id=None), parked=parked)
            state = with_request(state, running)
    return state, []


def look(state: State, now: float) -> tuple[State, list[Effect]]:
    """Evict the sequences of sessions that have been silent for too long."""
    effects: list[Effect] = []
    for slot in state.kept:
        if slot.session_id is not None and slot.used_at + state.limits.idle_seconds <= now:
            state, more = evict(state, slot)
            effects += more
    return state, effects


def next_idle(state: State) -> float | None:
    """When the next session has been silent for too long."""
    times = [slot.used_at + state.limits.idle_seconds for slot in state.kept if slot.session_id is not None]
    return min(times, default=None)
