"""Saving everything that a model holds: `runtime.evict`, and the end of the model. Pure.

    SaveAll ─▶ what is at rest is copied out and forgotten ─▶ Captured of each copy ─▶ AnswerSaved

With `"shutdown"` those at work are cancelled and nobody begins any more; what they leave is copied out too.
"""

from __future__ import annotations

from erllama_py.engine.jobs import Cancel, Captured
from erllama_py.model.evicting import evict
from erllama_py.model.messages import AnswerSaved, Effect, SaveAll, SaveRow, SendJob
from erllama_py.model.starting import leave_start
from erllama_py.model.state import State, changed, with_request


def save_all(state: State, event: SaveAll, now: float) -> tuple[State, list[Effect]]:
    """Save and forget what is at rest; with `"shutdown"` that is soon all."""
    state = changed(state, save_alls=(*state.save_alls, event), stopping=state.stopping or event.reason == "shutdown")
    effects: list[Effect] = []
    if state.stopping:
        for running in state.active:
            if running.stage in ("working", "parking"):
                state = with_request(state, changed(running, leaving=True))
                effects.append(SendJob(Cancel(running.request.id)))
            else:
                state, more = leave_start(state, running, now)
                effects += more
    state, more = forget_all(state)
    return state, [*effects, *more]


def forget_all(state: State) -> tuple[State, list[Effect]]:
    """As far as a `SaveAll` asks for it, and nobody is at work whom a shutdown waits for."""
    if not state.save_alls or (state.stopping and state.active):
        return state, []
    effects: list[Effect] = []
    for slot in state.kept:
        state, more = evict(state, slot, "shutdown" if state.stopping else "evict")
        effects += more
    state, more = answer_save_alls(state)
    return state, [*effects, *more]


def answer_save_alls(state: State) -> tuple[State, list[Effect]]:
    """Once everything is copied out."""
    if state.copies or (state.stopping and state.active):
        return state, []
    return changed(state, save_alls=()), [AnswerSaved(event.ticket) for event in state.save_alls]


def copied(state: State, captured: Captured) -> tuple[State, list[Effect]]:
    """A sequence at rest was copied out, or could not be."""
    copy = state.copies[captured.request_id]
    rest = {ticket: other for ticket, other in state.copies.items() if ticket != captured.request_id}
    state, effects = answer_save_alls(changed(state, copies=rest))
    return state, [SaveRow(copy.identity, copy.tokens, captured, None), *effects]
