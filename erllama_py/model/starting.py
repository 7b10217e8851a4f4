"""How a request starts: what the cache found, the rows that are read and restored, the job that follows. Pure.

    Found ─▶ choose_start ─▶ ReadRows ─RowRead─▶ Restore ─Restored─▶ … ─▶ Generate

Rows are sent to the engine as they come, and the generation begins when all are in. A row that cannot be read, or
that the engine refuses, ends the chain there: the request goes on from what it has, and never fails for it.
"""

from __future__ import annotations

from erllama_py.engine.jobs import CapturePlan, Generate, Restore, Restored
from erllama_py.model.messages import Effect, EndLookUp, Found, Outline, ReadRows, RowRead, RowTaken, SendJob
from erllama_py.model.reuse import choose_start
from erllama_py.model.slots import Slot
from erllama_py.model.state import Running, State, changed
from erllama_py.results import CacheHit


def found(state: State, event: Found, now: float) -> tuple[State, list[Effect]]:
    """The cache has answered: restore what it has, or begin at once."""
    running = state.running
    if running is None or running.request.id != event.request_id or running.stage != "looking":
        return state, []
    request = running.request
    # Cells are not lent from one tenant to another.
    slot = state.slot if state.slot.identity == request.identity else Slot(state.slot.seq_id)
    start = choose_start(
        slot,
        request.tokens,
        state.memory,
        state.n_swa,
        event.hit,
        event.logits is not None,
        min_tokens=state.min_tokens,
    )
    running = changed(running, hit=event.hit, start=start, found_at=now, logits=event.logits)
    if not start.rows:
        return _work(changed(state, running=running), running, now)
    running = changed(running, stage="restoring", reading=True)
    return changed(state, running=running), [ReadRows(request.id, start.rows)]


def row_read(state: State, event: RowRead, now: float) -> tuple[State, list[Effect]]:
    """A row was read, or there are no more of them."""
    running = state.running
    if running is None or running.request.id != event.request_id or running.stage != "restoring":
        return state, []
    assert running.start is not None
    row, rows = event.row, running.start.rows
    if row is None or running.refused is not None:
        running = changed(running, reading=False)
        return _work_if_ready(changed(state, running=running), running, now)
    meta, place = row.meta, running.sent
    job = Restore(
        request_id=event.request_id, seq_id=state.slot.seq_id, start=meta.start, end=meta.end, payload=row.payload
    )
    running = changed(
        running,
        sent=place + 1,
        reading=place + 1 < len(rows),
        restored_bytes=running.restored_bytes + len(row.payload) + len(row.logits),
        # Rows on the way may have logits too: those of other prompts' ends.
        logits=running.logits or (row.logits if meta.end == len(running.request.tokens) else None) or None,
    )
    return changed(state, running=running), [SendJob(job)]


def restored(state: State, outcome: Restored, now: float) -> tuple[State, list[Effect]]:
    """The engine has taken a row, or refused it."""
    running = state.running
    if running is None or running.request.id != outcome.request_id or running.stage != "restoring":
        return state, []
    if outcome.ok and running.refused is None:
        running = changed(running, restored=running.restored + 1)
    elif running.refused is None:
        start = running.start
        assert start is not None
        gone = outcome.held < start.rows[running.restored].meta.start
        running = changed(running, refused=running.restored, reading=False)
        if gone:  # a refusal may leave nothing, see `Backend.restore`
            running = changed(running, restored=0, start=changed(start, live=0))
    state, effects = _work_if_ready(changed(state, running=running), running, now)
    return state, [RowTaken(outcome.request_id), *effects]


def _work_if_ready(state: State, running: Running, now: float) -> tuple[State, list[Effect]]:
    if running.reading or (running.refused is None and running.restored < running.sent):
        return state, []
    return _work(state, running, now)


def _work(state: State, running: Running, now: float) -> tuple[State, list[Effect]]:
    """Everything that is to be had is in the cells: let the engine go on from there."""
    request, start = running.request, running.start
    assert start is not None
    whole = running.restored == len(start.rows)
    keep, by_logits = start.keep, start.by_logits and running.logits is not None
    saved_to = running.hit.saved_to if running.hit is not None else 0
    if not whole:
        keep = start.rows[running.restored - 1].meta.end if running.restored else start.live
        missing = running.restored if running.refused is None else running.refused
        saved_to, by_logits = min(saved_to, start.rows[missing].meta.start), False
    elif not by_logits:
        keep = min(keep, len(request.tokens) - 1)
    kind = start.kind if running.restored or not start.rows else "live"
    running = changed(running, stage="working", working_at=now, last=CacheHit(kind if keep else "cold", keep))
    job = Generate(
        request_id=request.id,
        seq_id=state.slot.seq_id,
        tokens=request.tokens,
        keep=keep,
        max_new_tokens=request.max_new_tokens,
        sampling=request.sampling,
        stop_sequences=request.stop_sequences,
        stream=running.stream,
        # Without the cache nobody knows what is saved already: nothing is, until it is back.
        saves=_plan(request.plan, saved_to) if running.hit is not None else None,
        logits=running.logits if by_logits else None,
        keep_logits=not by_logits,
    )
    state = changed(state, running=running, last_hit=running.last)
    return state, [end_look_up(running, now), SendJob(job)]


def _plan(plan: CapturePlan | None, saved_to: int) -> CapturePlan | None:
    if plan is None:
        return None
    ends = tuple(end for end in plan.prompt_ends if end > saved_to)
    return changed(plan, captured_to=saved_to, prompt_ends=ends)


def end_look_up(running: Running, now: float) -> EndLookUp:
    """The rows of a look-up are not needed any more."""
    start = running.start
    rows = start.rows if start is not None else ()
    refused = rows[running.refused] if running.refused is not None else None
    seconds = now - (running.found_at or now)
    hit = running.last or CacheHit("cold", 0)
    return EndLookUp(running.request.id, hit, rows[: running.restored], refused, seconds)


def outline(running: Running, now: float, miss_reason: str | None = None) -> Outline:
    """What there is to say of a request's start."""
    start, found_at = running.start, running.found_at or now
    rows = start.rows[: running.restored] if start is not None else ()
    if miss_reason is None and start is not None:
        whole = running.restored == len(start.rows)
        miss_reason = start.miss_reason if whole else "a row could not be read"
    return Outline(
        hit=running.last or CacheHit("cold", 0),
        miss_reason=miss_reason,
        tier=rows[-1].tier if rows else None,
        lookup_seconds=found_at - running.started_at,
        restore_seconds=(running.working_at or now) - found_at if rows else 0.0,
        restored_bytes=running.restored_bytes,
        created=running.created,
    )
