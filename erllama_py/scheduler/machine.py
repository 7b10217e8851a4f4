"""The life of one model's requests, as a pure function `(state, event, now) → (state, effects)`.

    Submit ─▶ waiting ─▶ looking ─Found─▶ restoring ─last row in─▶ working: prefilling ─▶ generating ─Finished─▶ over
                                                                      └── no cells: parking ─Parked─▶ parked, as waiting

As many requests run at a time as there are sequences and cells; the others wait in order of priority. No clock, no
thread, no await: the actor carries the effects out. Stages are in `state`, who gets what in `scheduling` and `placing`,
how a request starts in `starting`, what becomes of sequences at rest in `evicting`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from erllama_py.cache.keys import TOKEN_BYTES, pack_tokens, prefix_keys
from erllama_py.cache.messages import SaveLost
from erllama_py.engine.jobs import (
    Cancel,
    Captured,
    Died,
    Drop,
    Failed,
    Fault,
    Finished,
    Forked,
    Outcome,
    Parked,
    Prefilled,
    PromptLogits,
    Restored,
    Resumed,
    Text,
    Wants,
)
from erllama_py.results import Progress, TextDelta
from erllama_py.scheduler.evicting import end_session, look, next_idle
from erllama_py.scheduler.lost_saves import save_lost
from erllama_py.scheduler.messages import (
    BuffersBack,
    CancelRequest,
    Complete,
    Crash,
    Effect,
    Emit,
    EndSession,
    EngineOutcomes,
    FailRequest,
    Found,
    InjectFault,
    KeepLogits,
    LeaveSaveAll,
    Look,
    Message,
    Refuse,
    RowRead,
    SaveAll,
    SaveRow,
    SendJob,
    Submit,
)
from erllama_py.scheduler.saving_all import buffers_back, copied, leave_save_all, save_all, save_next
from erllama_py.scheduler.scheduling import SAVE_WAIT, go_on, lead_gone, schedule
from erllama_py.scheduler.slots import Slot
from erllama_py.scheduler.starting import forked, found, is_back, leave_start, outline, restored, row_read
from erllama_py.scheduler.state import (
    Running,
    State,
    at_rest,
    changed,
    slot_of,
    unstarted,
    with_request,
    with_slot,
    without_request,
)
from erllama_py.scheduler.turns import next_turn


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
            return _submit(state, event, now)
        case CancelRequest(request_id):
            return _cancel(state, request_id, now)
        case Found():
            return _then_schedule(found(state, event, now), now)
        case RowRead():
            return _then_schedule(row_read(state, event, now), now)
        case SaveAll():
            return _then_schedule(save_all(state, event, now), now)
        case LeaveSaveAll(ticket):
            return leave_save_all(state, ticket)
        case BuffersBack():
            return _then_schedule(buffers_back(state), now)
        case SaveLost():
            return _then_schedule(save_lost(state, event), now)
        case EndSession(session):
            return end_session(state, session)
        case Look():
            return _then_schedule(look(state, now), now)
        case InjectFault("actor"):
            return state, [Crash(None)]
        case InjectFault("thread"):
            return state, [SendJob(Fault("thread"))]
        case InjectFault():
            return state, [SendJob(Fault("decode"))]
        case _ as never:
            assert_never(never)


def next_look(state: State, now: float) -> float | None:
    """When a `Look` is due: a session has been silent for too long, or a turn is over."""
    times = (next_idle(state), next_turn(state, now))
    return min((when for when in times if when is not None), default=None)


def _outcome(state: State, outcome: Outcome, now: float) -> tuple[State, list[Effect]]:
    match outcome:
        case Prefilled(request_id, done, total):
            return _prefilled(state, request_id, done, total, now)
        case Resumed(request_id):
            return _resumed(state, request_id, now)
        case Wants(request_id, limit):
            return _wants(state, request_id, limit, now)
        case Parked():
            return _parked(state, outcome, now)
        case Forked():
            return _then_schedule(forked(state, outcome, now), now)
        case Restored():
            return _then_schedule(restored(state, outcome, now), now)
        case Captured():
            return _captured(state, outcome, now)
        case PromptLogits(request_id, logits):
            return _prompt_logits(state, request_id, logits)
        case Text():
            return state, [_emit(outcome)]
        case Finished():
            return _finished(state, outcome, now)
        case Failed():
            return _failed(state, outcome, now)
        case Died(failure):
            return state, [Crash(failure)]
        case _ as never:
            assert_never(never)


def texts_of(batch: Sequence[Outcome]) -> list[Emit] | None:
    """What becomes of a batch that is nothing but text, whatever the state, which stays as it is; else None.

    Most ticks bring nothing else. So nobody has to wake the machine for it, if only what came before has been handled.
    """
    effects: list[Emit] = []
    for outcome in batch:
        if not isinstance(outcome, Text):
            return None
        effects.append(_emit(outcome))
    return effects


def _emit(text: Text) -> Emit:
    return Emit(text.request_id, TextDelta(text.text, text.token_ids))


def _then_schedule(done: tuple[State, list[Effect]], now: float) -> tuple[State, list[Effect]]:
    state, effects = done
    state, more = schedule(state, now)
    return state, [*effects, *more]


def _submit(state: State, event: Submit, now: float) -> tuple[State, list[Effect]]:
    request, mine = event.request, event.request.session
    if mine is not None and not request.session_wait:
        # One that was cancelled is as good as over, and its caller cannot wait for the rest of it.
        turns = (other for other in state.requests.values() if other.request.session == mine)
        if any(not turn.leaving for turn in turns):
            return state, [Refuse(request)]
    after, effects = schedule(with_request(state, Running(request, event.feed is not None)), now)
    waiting = len(state.queue)
    # Who waits for its session leaves sequences free: one is too many only if it, or whom it pushes out, has to wait.
    if len(after.queue) > max(waiting, state.limits.max_pending):
        return state, [Refuse(request, waiting)]
    return after, effects


def _cancel(state: State, request_id: int, now: float) -> tuple[State, list[Effect]]:
    running = state.requests.get(request_id)
    if running is None or running.leaving:
        return state, []
    # What the engine has begun it also ends: it knows the text so far.
    by_engine = running.stage in ("working", "parking") or running.parked is not None
    effects: list[Effect] = []
    if running.seq_id is not None and running.stage not in ("working", "parking"):
        state, effects = leave_start(state, running, now)
        state, more = lead_gone(state, running, now)
        effects += more
    if by_engine:
        if running.stage not in ("working", "parking"):
            running = changed(running, stage="parked", seq_id=None, lead=None, forking=False)
        state = with_request(state, changed(running, leaving=True, starving=False))
        effects.append(SendJob(Cancel(request_id)))
    else:
        state = without_request(state, request_id)
        where = "while it was looked up" if running.seq_id is not None else "before it was looked up"
        began = running.started_at
        effects.append(Complete(running.request, outline(running, now, f"cancelled {where}"), None, began, None))
    return _then_schedule((state, effects), now)


def cut_short(state: State, request_id: int, now: float) -> Complete | None:
    """The answer to a request that was cancelled, but for what the engine had of it; None where it is over."""
    running = state.requests.get(request_id)
    return None if running is None else Complete(running.request, outline(running, now), None, running.started_at, None)


def _prefilled(state: State, request_id: int, done: int, total: int, now: float) -> tuple[State, list[Effect]]:
    running = state.requests.get(request_id)
    if running is None:
        return state, []
    if done == total:
        if running.parked is None and running.back_at is None:
            running = is_back(running, now)
        state = with_request(state, changed(running, prefilled=True))
    return state, [Emit(request_id, Progress(done, total))]


def _resumed(state: State, request_id: int, now: float) -> tuple[State, list[Effect]]:
    running = state.requests.get(request_id)
    if running is None or running.stage != "working":
        return state, []
    return schedule(with_request(state, is_back(running, now)), now)


def _wants(state: State, request_id: int, limit: int, now: float) -> tuple[State, list[Effect]]:
    running = state.requests.get(request_id)
    if running is None or running.leaving or running.stage != "working" or running.limit != limit:
        return state, []
    return schedule(with_request(state, changed(running, starving=True)), now)


def _parked(state: State, parked: Parked, now: float) -> tuple[State, list[Effect]]:
    running = state.requests.get(parked.request_id)
    if running is None or running.stage != "parking":
        return state, []
    slot, request = slot_of(state, running), running.request
    packed = request.packed + pack_tokens(parked.token_ids)
    ends = (parked.held, len(packed) // TOKEN_BYTES)
    held_key, key = prefix_keys(request.identity, packed, ends)
    sought = changed(
        request, tokens=[*request.tokens, *parked.token_ids], packed=packed, key=key,
        parent_key=held_key if running.captured_to else None, wait_seconds=SAVE_WAIT,
    )  # fmt: skip
    state = with_slot(state, Slot(slot.seq_id))
    out = unstarted(changed(running, parked=sought, parked_at=now, parks=running.parks + 1))
    state, effects = lead_gone(with_request(state, out), running, now)
    return _then_schedule((state, effects), now)


def _prompt_logits(state: State, request_id: int, logits: bytes) -> tuple[State, list[Effect]]:
    running = state.requests.get(request_id)
    if running is None:
        return state, []
    return with_request(state, changed(running, logits=logits)), [KeepLogits(running.request.key, logits)]


def _captured(state: State, captured: Captured, now: float) -> tuple[State, list[Effect]]:
    if captured.request_id in state.copies:
        return _then_schedule(copied(state, captured), now)
    running = state.requests.get(captured.request_id)
    if running is None:
        return state, []
    request = running.request
    logits = None
    if state.limits.memory in ("recurrent", "hybrid") and captured.end == request.n_tokens:
        logits = running.logits
    effects: list[Effect] = [
        SaveRow(request.identity, request.packed + pack_tokens(captured.generated), captured, logits)
    ]
    if captured.payload is not None:
        created = running.created + captured.end - captured.start
        running = changed(running, created=created, captured_to=min(captured.end, running.lost_from))
    state = with_request(state, running)
    for other in state.requests.values():
        if other.lead == request.id and other.stage == "following" and captured.end >= other.lead_end:
            state, more = go_on(state, other, other.lead_end + 1, now)
            effects += more
    return state, effects


def _finished(state: State, finished: Finished, now: float) -> tuple[State, list[Effect]]:
    running = state.requests.get(finished.request_id)
    if running is None or (running.stage not in ("working", "parking") and not running.leaving):
        return state, []
    request, captured_to = running.request, min(finished.captured_to, running.lost_from)
    if running.seq_id is not None:
        held = (request.packed + pack_tokens(finished.token_ids))[: TOKEN_BYTES * finished.held]
        slot, first_held = slot_of(state, running), finished.first_held
        state = at_rest(state, slot, held, first_held=first_held, captured_to=captured_to, now=now)
    saved = request.plan is not None and 0 < finished.held == captured_to
    answer = Complete(request, outline(running, now), finished, running.started_at, finished.held if saved else None)
    # Who waits for a request that a shutdown has ended learns that the model is gone.
    effects: list[Effect] = [] if state.stopping else [answer]
    return _leave(without_request(state, request.id), changed(running, captured_to=captured_to), effects, now)


def _failed(state: State, failed: Failed, now: float) -> tuple[State, list[Effect]]:
    request_id = failed.request_id
    running = state.requests.get(request_id)
    if running is None:
        return state, []
    effects: list[Effect] = [FailRequest(request_id, failed.failure)]
    if running.seq_id is not None:
        # What the sequence holds after a failure is not known: the next request starts from nothing.
        state = with_slot(state, Slot(running.seq_id))
        effects.append(SendJob(Drop(running.seq_id)))
    return _leave(without_request(state, request_id), running, effects, now)


def _leave(state: State, running: Running, effects: list[Effect], now: float) -> tuple[State, list[Effect]]:
    """A request is over: others may go on."""
    state, more = lead_gone(state, running, now)
    state, last = save_next(state)
    return _then_schedule((state, [*effects, *more, *last]), now)
