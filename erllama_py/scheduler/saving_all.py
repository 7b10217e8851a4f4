"""Saving everything that a model holds: `runtime.evict`, and the end of the model. Pure.

    SaveAll ─▶ Capture a range ─▶ Captured ─▶ the next one … ─▶ Drop ─▶ the next sequence … ─▶ AnswerSaved
                     ▲               │ no buffer
                     └─ BuffersBack ◀┴ AwaitBuffers

Buffers are bounded, and what a model holds is not: so there is one range at a time, and a sequence stays at rest until
all of it is copied. A request may take it over meanwhile; what was copied is right for its tokens all the same, and the
rest is left to the request. What comes to rest later is not waited for: on a busy model there would be no end. With
`"shutdown"` those at work are cancelled and nobody begins any more; what they leave is copied out too.
"""

from __future__ import annotations

import math

from erllama_py.cache.keys import Identity
from erllama_py.engine.jobs import Cancel, Captured
from erllama_py.options.model import SaveReason
from erllama_py.scheduler.evicting import copy_range, forget, unsaved
from erllama_py.scheduler.messages import AnswerSaved, AwaitBuffers, Effect, SaveAll, SaveRow, SendJob
from erllama_py.scheduler.slots import Slot
from erllama_py.scheduler.starting import leave_start
from erllama_py.scheduler.state import Copy, Saving, State, changed, with_request, with_slot

# So often a range is tried again that finds no buffer. Each time all that was on its way has been stored, so only
# others that save just then can have been faster: one of eight models loses so often in a row once in 600,000 times.
MOST_TRIES = 100


def save_all(state: State, event: SaveAll, now: float) -> tuple[State, list[Effect]]:
    """Save and forget what is at rest; with `"shutdown"` that is soon all."""
    stopping = state.stopping or event.reason == "shutdown"
    until = math.inf if stopping else now
    state = changed(state, save_alls=(*state.save_alls, event), save_until=until, stopping=stopping)
    effects: list[Effect] = []
    if state.stopping:
        for running in state.active:
            if running.stage in ("working", "parking"):
                state = with_request(state, changed(running, leaving=True, starving=False))
                effects.append(SendJob(Cancel(running.request.id)))
            else:
                state, more = leave_start(state, running, now)
                effects += more
    state, more = save_next(state)
    return state, [*effects, *more]


def leave_save_all(state: State, ticket: int) -> tuple[State, list[Effect]]:
    """Its caller has gone: what is still at rest stays there."""
    return changed(state, save_alls=tuple(event for event in state.save_alls if event.ticket != ticket)), []


def save_next(state: State, tries: int = 0) -> tuple[State, list[Effect]]:
    """Go on with the next range, as far as a `SaveAll` asks for it, and nobody is at work whom a shutdown waits for."""
    if not state.save_alls or state.saving is not None or (state.stopping and state.active):
        return state, []
    effects: list[Effect] = []
    for slot in state.kept:
        if slot.used_at > state.save_until:
            continue
        identity = unsaved(state, slot)
        if identity is not None:
            state, more = _save_range(state, slot, identity, tries)
            return state, [*effects, *more]
        state, more = forget(state, slot)
        effects += more
    if not state.copies:
        effects += [AnswerSaved(event.ticket) for event in state.save_alls]
        state = changed(state, save_alls=(), save_until=0.0)
    return state, effects


def _save_range(state: State, slot: Slot, identity: Identity, tries: int) -> tuple[State, list[Effect]]:
    # The session's next turn need not wait for this copy: its sequence is still there.
    reason: SaveReason = "shutdown" if state.stopping else "evict"
    state, job = copy_range(state, slot, Copy(identity, slot.held), slot.captured_to, reason)
    return changed(state, saving=Saving(slot.seq_id, job.request_id, tries)), [SendJob(job)]


def copied(state: State, captured: Captured) -> tuple[State, list[Effect]]:
    """A range of a sequence at rest was copied out, or could not be."""
    copy, saving = state.copies[captured.request_id], state.saving
    state = changed(state, copies={key: other for key, other in state.copies.items() if key != captured.request_id})
    effects: list[Effect] = [SaveRow(copy.identity, copy.tokens, captured, None)]
    if saving is not None and saving.ticket == captured.request_id:
        if captured.skipped == "no_buffer" and saving.tries < MOST_TRIES:
            return changed(state, saving=Saving(saving.seq_id, None, saving.tries + 1)), [AwaitBuffers()]
        state, more = _range_over(changed(state, saving=None), state.slots[saving.seq_id], copy, captured)
        effects += more
    state, more = save_next(state)
    return state, [*effects, *more]


def buffers_back(state: State) -> tuple[State, list[Effect]]:
    """Try again, with whatever is the next range now."""
    tries = state.saving.tries if state.saving is not None else 0
    return save_next(changed(state, saving=None), tries)


def _range_over(state: State, slot: Slot, copy: Copy, captured: Captured) -> tuple[State, list[Effect]]:
    if not slot.is_kept or (slot.identity, slot.held) != (copy.identity, copy.tokens):
        return state, []  # a request has it now
    if captured.payload is not None:
        # Where what it goes on from was lost meanwhile, that comes first.
        end = max(slot.captured_to, captured.end) if slot.captured_to >= captured.start else slot.captured_to
        return with_slot(state, changed(slot, captured_to=end)), []
    # What follows goes on from what cannot be had.
    return forget(state, slot) if state.save_alls else (state, [])
