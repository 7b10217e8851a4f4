"""The life of one model's requests, as a pure function `(state, event, now) → (state, effects)`.

    idle ─Submit─▶ looking ─Found─▶ restoring ─last row in─▶ working: prefilling ─▶ generating ─Finished─▶ idle,
                      └── nothing to restore ─────────────────▲                                or the next one
      a Submit meanwhile waits, first in, first out; a cancelled one that waits is answered at once
      a SaveAll has its turn before the next request: what the sequence holds is copied out, then forgotten

One request runs at a time, in sequence 0; the others wait in `waiting`. No clock, no thread, no await: the actor
carries the effects out. How a request starts is in `starting`.
"""

from __future__ import annotations

from typing import assert_never

from erllama_py.cache.keys import pack_tokens
from erllama_py.engine.jobs import (
    Cancel,
    Capture,
    Captured,
    Died,
    Drop,
    Failed,
    Fault,
    Finished,
    Outcome,
    Prefilled,
    PromptLogits,
    Restored,
    Text,
)
from erllama_py.model.messages import (
    AnswerSaved,
    CancelRequest,
    Complete,
    Crash,
    Effect,
    Emit,
    EngineOutcomes,
    FailRequest,
    Found,
    InjectFault,
    KeepLogits,
    LookUp,
    Message,
    RowRead,
    SaveAll,
    SaveRow,
    SendJob,
    Submit,
)
from erllama_py.model.slots import Slot
from erllama_py.model.starting import end_look_up, found, outline, restored, row_read
from erllama_py.model.state import Running, State, changed
from erllama_py.results import Progress, TextDelta


def transition(state: State, event: Message, now: float) -> tuple[State, list[Effect]]:
    """What `event` changes and what is to be done about it. `now` is the monotonic clock's, in seconds."""
    match event:
        case EngineOutcomes(batch):
            effects: list[Effect] = []
            for outcome in batch:
                state, more = _outcome(state, outcome, now)
                effects += more
            return state, effects
        case Submit():
            return _next(changed(state, waiting=(*state.waiting, event)), now)
        case CancelRequest(request_id):
            return _cancel(state, request_id, now)
        case Found():
            return found(state, event, now)
        case RowRead():
            return row_read(state, event, now)
        case SaveAll():
            return _save_all(state, event, now)
        case InjectFault("actor"):
            return state, [Crash("the model's actor was told to fail")]
        case InjectFault("thread"):
            return state, [SendJob(Fault("thread"))]
        case InjectFault():
            return state, [SendJob(Fault("decode"))]
        case _ as never:
            assert_never(never)


def _outcome(state: State, outcome: Outcome, now: float) -> tuple[State, list[Effect]]:
    match outcome:
        case Prefilled(request_id, done, total):
            return _prefilled(state, request_id, done, total)
        case Restored():
            return restored(state, outcome, now)
        case Captured():
            return _captured(state, outcome, now)
        case PromptLogits(request_id, logits):
            return _prompt_logits(state, request_id, logits)
        case Text(request_id, text, token_ids):
            return state, [Emit(request_id, TextDelta(text, token_ids))]
        case Finished():
            return _finished(state, outcome, now)
        case Failed(request_id, error, problem):
            if state.running is None or state.running.request.id != request_id:
                return state, []
            # What the sequence holds after a failure is not known: the next request starts from nothing.
            after, effects = _next(changed(state, running=None, slot=Slot(state.slot.seq_id)), now)
            return after, [FailRequest(request_id, error, problem), *effects]
        case Died(error, problem):
            return state, [Crash(f"{error}: {problem}")]
        case _ as never:
            assert_never(never)


def _next(state: State, now: float) -> tuple[State, list[Effect]]:
    """Begin what is due, if nothing is being worked on: a `SaveAll` first, then what has waited longest."""
    if state.running is not None or state.saving is not None:
        return state, []
    if state.save_alls:
        return _begin_saving(state, now)
    if state.stopping or not state.waiting:
        return state, []
    submit, *rest = state.waiting
    running = Running(submit.request, submit.feed is not None, now)
    return changed(state, running=running, waiting=tuple(rest)), [LookUp(submit.request)]


def _cancel(state: State, request_id: int, now: float) -> tuple[State, list[Effect]]:
    running = state.running
    if running is not None and running.request.id == request_id:
        if running.stage == "working":
            return state, [SendJob(Cancel(request_id))]
        answer = Complete(running.request, outline(running, now, "cancelled while it was looked up"), None, now, None)
        state, ended = _leave_start(state, running, now)
        state, effects = _next(state, now)
        return state, [*ended, answer, *effects]
    for submit in state.waiting:
        if submit.request.id == request_id:
            waiting = tuple(other for other in state.waiting if other is not submit)
            idle = Running(submit.request, False, now)
            unseen = outline(idle, now, "cancelled before it was looked up")
            return changed(state, waiting=waiting), [Complete(submit.request, unseen, None, None, None)]
    return state, []


def _leave_start(state: State, running: Running, now: float) -> tuple[State, list[Effect]]:
    """Give a request up that the engine has not begun; rows that are on their way may still go into its cells."""
    slot = Slot(state.slot.seq_id) if running.stage == "restoring" else state.slot
    return changed(state, running=None, slot=slot), [end_look_up(running, now)]


def _prefilled(state: State, request_id: int, done: int, total: int) -> tuple[State, list[Effect]]:
    running = state.running
    if running is None:
        return state, []
    if done == total:
        state = changed(state, running=changed(running, prefilled=True))
    return state, [Emit(request_id, Progress(done, total))]


def _prompt_logits(state: State, request_id: int, logits: bytes) -> tuple[State, list[Effect]]:
    running = state.running
    if running is None or running.request.id != request_id:
        return state, []
    return changed(state, running=changed(running, logits=logits)), [KeepLogits(running.request.key, logits)]


def _captured(state: State, captured: Captured, now: float) -> tuple[State, list[Effect]]:
    if state.saving is not None and state.saving.ticket == captured.request_id:
        return _saved(state, captured, now)
    running = state.running
    if running is None or running.request.id != captured.request_id:
        return state, []
    request = running.request
    logits = None
    if state.memory in ("recurrent", "hybrid") and captured.end == len(request.tokens):
        logits = running.logits
    save = SaveRow(request.identity, request.packed + pack_tokens(captured.generated), captured, logits)
    if captured.payload is not None:
        running = changed(running, created=running.created + captured.end - captured.start)
    return changed(state, running=running), [save]


def _finished(state: State, finished: Finished, now: float) -> tuple[State, list[Effect]]:
    running = state.running
    if running is None or running.request.id != finished.request_id:
        return state, []
    request = running.request
    held = [*request.tokens, *finished.token_ids][: finished.held]
    slot = Slot(state.slot.seq_id, held, max(finished.first_held, 0), request.identity, finished.captured_to)
    saved = request.plan is not None and 0 < finished.held == finished.captured_to
    answer = Complete(request, outline(running, now), finished, running.started_at, finished.held if saved else None)
    after, effects = _next(changed(state, running=None, slot=slot), now)
    # Who waits for a request that a shutdown has ended learns that the model is gone.
    return after, effects if state.stopping else [answer, *effects]


# --- saving what is at rest ------------------------------------------------------------------------------------


def _save_all(state: State, event: SaveAll, now: float) -> tuple[State, list[Effect]]:
    state = changed(state, save_alls=(*state.save_alls, event), stopping=state.stopping or event.reason == "shutdown")
    effects: list[Effect] = []
    if state.stopping and state.running is not None:
        if state.running.stage == "working":
            return state, [SendJob(Cancel(state.running.request.id))]
        state, effects = _leave_start(state, state.running, now)
    state, more = _next(state, now)
    return state, [*effects, *more]


def _begin_saving(state: State, now: float) -> tuple[State, list[Effect]]:
    event, *rest = state.save_alls
    slot, least = state.slot, state.min_tokens
    state = changed(state, save_alls=tuple(rest))
    if slot.identity is None or least is None or len(slot.held) < max(least, slot.captured_to + 1):
        return _forget(state, event, now)
    start, end = slot.captured_to, len(slot.held)
    job = Capture(request_id=event.ticket, seq_id=slot.seq_id, start=start, end=end, reason=event.reason)
    return changed(state, saving=event), [SendJob(job)]


def _saved(state: State, captured: Captured, now: float) -> tuple[State, list[Effect]]:
    event, slot = state.saving, state.slot
    assert event is not None
    assert slot.identity is not None
    state, effects = _forget(changed(state, saving=None), event, now)
    return state, [SaveRow(slot.identity, pack_tokens(slot.held), captured, None), *effects]


def _forget(state: State, event: SaveAll, now: float) -> tuple[State, list[Effect]]:
    seq_id = state.slot.seq_id
    state, effects = _next(changed(state, slot=Slot(seq_id)), now)
    return state, [SendJob(Drop(seq_id)), AnswerSaved(event.ticket), *effects]
