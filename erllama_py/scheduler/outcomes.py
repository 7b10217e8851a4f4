"""What the engine reports of requests, one outcome at a time. Pure.

A request may have left the stage that an outcome is about: then there is nothing to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from erllama_py.cache.keys import TOKEN_BYTES, common_prefix, pack_tokens, prefix_keys
from erllama_py.cache.policy import KeepFor, keep_seconds
from erllama_py.engine import jobs
from erllama_py.results import CallText, Progress, TextDelta, ThinkingDelta, ThinkingEnd
from erllama_py.scheduler.cells import Slot
from erllama_py.scheduler.idle import copied, save_next
from erllama_py.scheduler.messages import (
    Complete,
    Crash,
    Effect,
    Emit,
    FailRequest,
    KeepLogits,
    RefuseRows,
    SaveRow,
    SendJob,
)
from erllama_py.scheduler.reuse import can_shorten
from erllama_py.scheduler.scheduling import schedule, then_schedule
from erllama_py.scheduler.sharing import forked, leader_gone, row_saved
from erllama_py.scheduler.stages import Open, Parked, Parking, Waiting, Working, comes_back, sought
from erllama_py.scheduler.starting import COLD, SAVE_WAIT, is_back, outline, restored
from erllama_py.scheduler.state import (
    State,
    changed,
    idle_after,
    slot_of,
    solid,
    with_request,
    with_slot,
    without_request,
)

NOT_HELD = "the live sequence did not hold what it should"
NO_NUMBERS = "what it began with gave logits that are no numbers, and was computed again"


def engine_outcome(state: State, outcome: jobs.Outcome, now: float) -> tuple[State, Sequence[Effect]]:
    """What `outcome` changes and what is to be done about it."""
    match outcome:
        case jobs.Prefilled(request_id, done, total):
            return _prefilled(state, request_id, done, total, now)
        case jobs.Resumed(request_id):
            return _resumed(state, request_id, now)
        case jobs.Wants(request_id, limit):
            return _wants(state, request_id, limit, now)
        case jobs.Parked():
            return _parked(state, outcome, now)
        case jobs.Forked():
            return then_schedule(forked(state, outcome, now), now)
        case jobs.Restored():
            return then_schedule(restored(state, outcome, now), now)
        case jobs.Spoiled(request_id):
            return _anew(state, request_id, NO_NUMBERS, spoiled=True)
        case jobs.NotHeld(request_id):
            return _anew(state, request_id, NOT_HELD)
        case jobs.Captured():
            return _captured(state, outcome, now)
        case jobs.PromptLogits(request_id, logits):
            return _prompt_logits(state, request_id, logits)
        case jobs.Text():
            return state, emitted(outcome)
        case jobs.Finished():
            return _finished(state, outcome, now)
        case jobs.Failed():
            return _failed(state, outcome, now)
        case jobs.Died(failure):
            return state, [Crash(failure)]
        case _ as never:
            assert_never(never)


def texts_of(batch: Sequence[jobs.Outcome]) -> list[Emit] | None:
    """What becomes of a batch that is nothing but text, whatever the state, which stays as it is; else None.

    Most ticks bring nothing else. So the machine need not be woken for it, if what came before has been handled.
    """
    effects: list[Emit] = []
    for outcome in batch:
        if not isinstance(outcome, jobs.Text):
            return None
        effects += emitted(outcome)
    return effects


def emitted(text: jobs.Text) -> list[Emit]:
    """The events of new text. What a call is, only the caller's side knows."""
    request_id, draws = text.request_id, text.draws
    if text.kind == "text":
        return [Emit(request_id, TextDelta(text.text, text.token_ids, text.logprobs), draws)]
    if text.kind == "call":
        return [Emit(request_id, CallText(text.text, text.token_ids, text.logprobs, text.closed), draws)]
    events: list[Emit] = []
    if text.text or text.token_ids:
        delta = ThinkingDelta(text.text, text.token_ids, text.logprobs)
        events.append(Emit(request_id, delta, None if text.closed else draws))
    if text.closed:
        events.append(Emit(request_id, ThinkingEnd(), draws))
    return events


def _at_work(state: State, request_id: int) -> Working | Parking | None:
    one = state.placed.get(request_id)
    return one if isinstance(one, Working | Parking) else None


def _prefilled(state: State, request_id: int, done: int, total: int, now: float) -> tuple[State, list[Effect]]:
    one = _at_work(state, request_id)
    if one is None:
        return state, []
    if done == total:
        if isinstance(one, Working) and not comes_back(one) and one.back_at is None:
            one = is_back(one, now)
        state = with_request(state, changed(one, begun=changed(one.begun, prefilled=True)))
    # A stream that has begun to hear a reply is not told of its prompt again.
    return state, [Emit(request_id, Progress(done, total))] if one.core.request.drawn is None else []


def _resumed(state: State, request_id: int, now: float) -> tuple[State, list[Effect]]:
    working = state.placed.get(request_id)
    if not isinstance(working, Working):
        return state, []
    return schedule(with_request(state, is_back(working, now)), now)


def _wants(state: State, request_id: int, limit: int, now: float) -> tuple[State, list[Effect]]:
    working = state.placed.get(request_id)
    if not isinstance(working, Working) or working.begun.leaving or working.allocation.limit != limit:
        return state, []
    return schedule(with_request(state, changed(working, starving=True)), now)


def _parked(state: State, parked: jobs.Parked, now: float) -> tuple[State, list[Effect]]:
    parking = state.placed.get(parked.request_id)
    if not isinstance(parking, Parking):
        return state, []
    request, begun, held, drawn = parking.core.request, parking.begun, parked.held, parked.token_ids
    if state.limits.grid is not None:  # what it has drawn is not saved, nor to be found in others' prompts
        held, drawn = begun.captured_to, []
    packed = request.packed + pack_tokens(drawn)
    held_key, key = prefix_keys(request.identity, packed, (held, len(packed) // TOKEN_BYTES))
    sought = changed(
        request, tokens=[*request.tokens, *drawn], packed=packed, key=key,
        parent_key=held_key if begun.captured_to else None, wait_seconds=SAVE_WAIT,
    )  # fmt: skip
    state = with_slot(state, Slot(parking.allocation.seq_id))
    begun = changed(begun, sought=sought, parked_at=now, parks=begun.parks + 1)
    state = with_request(state, Parked(parking.core, begun))
    return then_schedule(leader_gone(state, parking, now), now)


def _prompt_logits(state: State, request_id: int, logits: bytes) -> tuple[State, list[Effect]]:
    one = _at_work(state, request_id)
    if one is None:
        return state, []
    state = with_request(state, changed(one, core=changed(one.core, logits=logits)))
    return state, [KeepLogits(one.core.request.key, logits)]


def _anew(state: State, request_id: int, why: str, *, spoiled: bool = False) -> tuple[State, list[Effect]]:
    """What a request began with was of no use: it is computed from its first token on."""
    one = _at_work(state, request_id)
    if one is None:
        return state, []
    began = changed(one.begun.outline, hit=COLD, miss_reason=why, tier=None)
    core, begun = changed(one.core, rows=(), logits=None), changed(one.begun, outline=began)
    return with_request(state, changed(one, core=core, begun=begun)), [RefuseRows(one.core.rows)] if spoiled else []


def _kept(keeps: Sequence[KeepFor], before: tuple[int, ...], start: int, end: int) -> tuple[int, ...]:
    """How many tokens were copied out up to where each of these ends, once `[start, end)` was."""
    before = before or (0,) * len(keeps)
    ends = [min(end, keep.position) for keep in keeps]
    return tuple(count + max(0, last - start) for count, last in zip(before, ends, strict=True))


def _captured(state: State, captured: jobs.Captured, now: float) -> tuple[State, list[Effect]]:
    if captured.request_id in state.copies:
        return then_schedule(copied(state, captured), now)
    one = _at_work(state, captured.request_id)
    if one is None:
        return state, []
    request, begun, logits = one.core.request, one.begun, None
    shorter = can_shorten(captured.start, captured.end, state.limits.memory, state.limits.n_swa)
    if captured.end == request.n_tokens and not shorter:  # else a repeat could not compute the last token again
        logits = one.core.logits
    tokens, seconds = request.packed + pack_tokens(captured.generated), keep_seconds(captured.start, request.keeps)
    new = min(captured.end, max(captured.start, begun.captured_to))  # what was saved before is not saved anew
    replaces = captured.start < begun.captured_to and not _is_shared(state, one, tokens, captured.start)
    save = SaveRow(request.identity, tokens, captured, logits, seconds, replaces=replaces)
    if captured.payload is not None:
        created, captured_to = begun.created + captured.end - new, min(captured.end, one.core.lost_from)
        kept = _kept(request.keeps, begun.kept, new, captured.end)
        ends = (*begun.row_ends, captured.end)
        begun = changed(begun, created=created, captured_to=captured_to, kept=kept, row_ends=ends)
        state = with_request(state, changed(one, begun=begun))
    state, effects = row_saved(state, request.id, captured.end, now)
    return state, [save, *effects]


def _is_shared(state: State, one: Open, tokens: bytes, start: int) -> bool:
    """Whether what another request or session stands on may lie in `tokens` beyond `start`. What is idle and of no
    session may be a reply that did not come back."""
    mine = one.core.request
    at_work = [sought(other) for other in (*state.placed.values(), *state.parked.values())]
    of_sessions = [slot for slot in state.idle if slot.session_id not in (None, mine.session_id)]
    held = [(other.identity, other.packed) for other in at_work if other.id != mine.id]
    held += [(slot.identity or mine.identity, slot.packed) for slot in of_sessions]
    return any(identity == mine.identity and common_prefix(packed, tokens) > start for identity, packed in held)


def _finished(state: State, finished: jobs.Finished, now: float) -> tuple[State, list[Effect]]:
    one = state.find(finished.request_id)
    if one is None or one.begun is None or not (isinstance(one, Working | Parking) or one.begun.leaving):
        return state, []
    request, captured_to = one.core.request, min(finished.captured_to, one.core.lost_from)
    effects: list[Effect] = []
    if isinstance(one, Working | Parking):
        held, first, slot = finished.held, finished.first_held, slot_of(state, one)
        length = solid(state.limits, request.n_tokens, held, lasting=request.lasting, first=first)
        packed = (request.packed + pack_tokens(finished.token_ids))[: TOKEN_BYTES * length]
        state = idle_after(state, slot, packed, first=first, captured_to=min(captured_to, length), now=now)
        if length < finished.held:
            effects.append(SendJob(jobs.Drop(slot.seq_id, length)))
    saved = request.plan is not None and 0 < finished.held == captured_to
    saved_end = finished.held if saved else None
    answer = Complete(request, outline(one.begun), finished, one.core.started_at, saved_end)
    # A caller that waits for a request which a shutdown has ended learns that the model is gone.
    left = changed(one, begun=changed(one.begun, captured_to=captured_to))
    return _leave(state, left, effects if state.stopping else [*effects, answer], now)


def _failed(state: State, failed: jobs.Failed, now: float) -> tuple[State, list[Effect]]:
    one = state.find(failed.request_id)
    if one is None:
        return state, []
    effects: list[Effect] = [FailRequest(failed.request_id, failed.failure)]
    if not isinstance(one, Waiting | Parked):
        # What the sequence holds after a failure is not known: the next request starts from nothing.
        seq_id = one.allocation.seq_id
        state = with_slot(state, Slot(seq_id))
        effects.append(SendJob(jobs.Drop(seq_id)))
    return _leave(state, one, effects, now)


def _leave(state: State, one: Open, effects: list[Effect], now: float) -> tuple[State, list[Effect]]:
    """A request is over: others may go on."""
    state, more = leader_gone(without_request(state, one.core.request.id), one, now)
    state, last = save_next(state)
    return then_schedule((state, [*effects, *more, *last]), now)
