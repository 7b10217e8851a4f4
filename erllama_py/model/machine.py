"""The life of one model's requests, as a pure function `(state, event, now) → (state, effects)`.

    idle ──Submit──▶ prefilling ──all of the prompt in──▶ generating ──Finished──▶ idle, or the next one
      a Submit meanwhile waits, first in, first out; a cancelled one that waits is answered at once

One request runs at a time, in sequence 0; the others wait in `waiting`. No clock, no thread, no await:
the actor carries the effects out.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from erllama_py.engine.backend import MemoryKind
from erllama_py.engine.jobs import (
    Cancel,
    Died,
    Failed,
    Fault,
    Finished,
    Generate,
    Outcome,
    Prefilled,
    Text,
)
from erllama_py.model.messages import (
    CancelRequest,
    Complete,
    Crash,
    Effect,
    Emit,
    EngineOutcomes,
    FailRequest,
    InjectFault,
    Message,
    Request,
    SendJob,
    Submit,
)
from erllama_py.model.slots import Slot, reusable
from erllama_py.results import CacheHit, Phase, Progress, TextDelta


class Running(msgspec.Struct, frozen=True):
    """The request that the engine works on, and what it could reuse."""

    request: Request
    hit: CacheHit
    miss_reason: str | None
    started_at: float
    prefilled: bool = False


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the next decision depends on."""

    memory: MemoryKind
    n_swa: int
    slot: Slot = Slot(0)
    running: Running | None = None
    waiting: tuple[Submit, ...] = ()
    last_hit: CacheHit | None = None

    @property
    def phase(self) -> Phase:
        if self.running is None:
            return "idle"
        return "generating" if self.running.prefilled else "prefilling"


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
            return _start_next(_with(state, waiting=(*state.waiting, event)), now)
        case CancelRequest(request_id):
            return _cancel(state, request_id)
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
        case Text(request_id, text, token_ids):
            return state, [Emit(request_id, TextDelta(text, token_ids))]
        case Finished():
            return _finished(state, outcome, now)
        case Failed(request_id, error, problem):
            # What the sequence holds after a failure is not known: the next request starts from nothing.
            after, effects = _start_next(_with(state, running=None, slot=Slot(state.slot.seq_id)), now)
            return after, [FailRequest(request_id, error, problem), *effects]
        case Died(error, problem):
            return state, [Crash(f"{error}: {problem}")]
        case _ as never:
            assert_never(never)


def _with(state: State, **changes: object) -> State:
    return msgspec.structs.replace(state, **changes)


def _start_next(state: State, now: float) -> tuple[State, list[Effect]]:
    """Give the engine the request that has waited longest, if it has nothing to do."""
    if state.running is not None or not state.waiting:
        return state, []
    submit, *rest = state.waiting
    request = submit.request
    reuse = reusable(state.slot, request.tokens, state.memory, state.n_swa)
    hit = CacheHit("live" if reuse.keep else "cold", reuse.keep)
    running = Running(request, hit, reuse.miss_reason, now)
    job = Generate(
        request_id=request.id,
        seq_id=state.slot.seq_id,
        tokens=request.tokens,
        keep=reuse.keep,
        max_new_tokens=request.max_new_tokens,
        sampling=request.sampling,
        stop_sequences=request.stop_sequences,
        stream=submit.feed is not None,
    )
    return _with(state, running=running, waiting=tuple(rest), last_hit=hit), [SendJob(job)]


def _cancel(state: State, request_id: int) -> tuple[State, list[Effect]]:
    if state.running is not None and state.running.request.id == request_id:
        return state, [SendJob(Cancel(request_id))]
    for submit in state.waiting:
        if submit.request.id == request_id:
            waiting = tuple(other for other in state.waiting if other is not submit)
            cold = CacheHit("cold", 0)
            return _with(state, waiting=waiting), [
                Complete(submit.request, cold, "cancelled before it was looked up", None, None)
            ]
    return state, []


def _prefilled(state: State, request_id: int, done: int, total: int) -> tuple[State, list[Effect]]:
    running = state.running
    if running is None:
        return state, []
    if done == total:
        state = _with(state, running=msgspec.structs.replace(running, prefilled=True))
    return state, [Emit(request_id, Progress(done, total))]


def _finished(state: State, finished: Finished, now: float) -> tuple[State, list[Effect]]:
    running = state.running
    if running is None or running.request.id != finished.request_id:
        return state, []
    held = [*running.request.tokens, *finished.token_ids][: finished.held]
    slot = Slot(state.slot.seq_id, held, max(finished.first_held, 0))
    answer = Complete(running.request, running.hit, running.miss_reason, finished, running.started_at)
    after, effects = _start_next(_with(state, running=None, slot=slot), now)
    return after, [answer, *effects]
