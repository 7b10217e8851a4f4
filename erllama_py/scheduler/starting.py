"""How a request starts: what the cache found, the rows that are read and restored, the job that follows. Pure.

    Found ─▶ choose_start ─▶ ReadRows ─RowRead─▶ Restore ─Restored─▶ … ─▶ Generate, or Resume

Rows are sent to the engine as they come, and the generation begins when all are in. A row that cannot be read, or
that the engine refuses, ends the chain there: the request goes on from what it has, and never fails for it. Where the
beginning is shared with another request, the start waits for `Forked` too.
"""

from __future__ import annotations

from erllama_py.cache.keys import TOKEN_BYTES
from erllama_py.cache.messages import Hit
from erllama_py.engine.jobs import CapturePlan, Drop, Fork, Forked, Generate, Restore, Restored, Resume
from erllama_py.results import CacheHit
from erllama_py.scheduler.books import Pieces, count, grown, written
from erllama_py.scheduler.evicting import evict
from erllama_py.scheduler.messages import Effect, EndLookUp, Found, Outline, ReadRows, RowRead, RowTaken, SendJob
from erllama_py.scheduler.placing import LEAST_SHARED, Beginning, shared
from erllama_py.scheduler.reuse import Start, choose_start
from erllama_py.scheduler.slots import Slot
from erllama_py.scheduler.state import (
    NOTHING_LOST,
    Running,
    State,
    at_rest,
    changed,
    slot_of,
    with_request,
    with_slot,
    without_request,
)


def found(state: State, event: Found, now: float) -> tuple[State, list[Effect]]:
    """The cache has answered: restore what it has, or begin at once."""
    running = state.requests.get(event.request_id)
    if running is None or running.stage != "looking" or running.answer is not None:
        return state, []
    running = changed(running, answer=event)
    state = with_request(state, running)
    return (state, []) if running.forking else _start(state, running, event, now)


def fork_job(running: Running, source: int, length: int) -> SendJob:
    """The job that lets a request share another's beginning."""
    assert running.seq_id is not None
    return SendJob(Fork(request_id=running.request.id, source=source, seq_id=running.seq_id, length=length))


def forked(state: State, outcome: Forked, now: float) -> tuple[State, list[Effect]]:
    """The beginning is shared, or less of it: whoever was to compute it has ended before."""
    running = state.requests.get(outcome.request_id)
    if running is None or not running.forking:
        return state, []
    return shares(state, running, outcome.length, now)


def shares(state: State, running: Running, length: int, now: float) -> tuple[State, list[Effect]]:
    """A request that was to begin with another's cells has so many of them: start it, unless there is more to share."""
    lead = state.requests.get(running.lead) if running.lead is not None else None
    state = with_slot(state, changed(slot_of(state, running), held=running.sought.packed[: TOKEN_BYTES * length]))
    saved = max(running.saved_by_lead, saved_by(lead, length) if lead is not None else 0)
    running = changed(running, forking=False, lead=None, lead_end=0, saved_by_lead=saved, coming_since=now)
    state = with_request(state, running)
    # Of several who have lost the same lead, the first goes on, and the others follow it: for as much more as would
    # be worth it from the start, because they wait again.
    again = shared(state, running)
    if again.source is not None and again.keep >= length + LEAST_SHARED:
        state, effects = follow(state, running, again)
        # What it has so far would be counted nowhere while it waits.
        return state, [SendJob(Drop(slot_of(state, running).seq_id)), *effects] if length else effects
    return _start(state, running, running.answer, now) if running.answer is not None else (state, [])


def saved_by(lead: Running, length: int) -> int:
    """Up to where whoever computed the beginning has saved it: nobody else needs to."""
    ends = lead.request.plan.prompt_ends if lead.request.plan is not None else ()
    return max((end for end in ends if end <= min(length, lead.captured_to)), default=0)


def follow(state: State, running: Running, begin: Beginning) -> tuple[State, list[Effect]]:
    """Share another's beginning, when it is there: at once, if that is at rest or at work."""
    assert begin.source is not None
    source, slot = state.slots[begin.source], slot_of(state, running)
    slot = changed(
        slot,
        held=running.sought.packed[: TOKEN_BYTES * begin.keep],
        pieces=written(source.pieces, begin.keep, running.limit, state.next_block),
    )
    state = with_slot(changed(state, next_block=state.next_block + 1), slot)
    running = changed(running, forking=True, lead=begin.lead, lead_end=begin.keep)
    lead = state.requests.get(begin.lead) if begin.lead is not None else None
    job: list[Effect] = (
        [fork_job(running, source.seq_id, begin.keep)] if lead is None or lead.stage == "working" else []
    )
    return with_request(state, running), job


def with_pieces(state: State, running: Running, pieces: Pieces) -> State:
    """The state in which a request has these cells, and those who are to begin with them have them as well.

    They have none of their own as long as the lead has too few for what they share.
    """
    state, end = with_slot(state, changed(slot_of(state, running), pieces=pieces)), pieces[-1].end
    for other in state.requests.values():
        if other.forking and other.lead == running.request.id:
            theirs = slot_of(state, other)
            own, whole = theirs.pieces[-1], other.lead_end <= end
            shares = written(pieces, min(other.lead_end, end), own.end if whole else 0, own.block)
            state = with_slot(state, changed(theirs, pieces=shares))
    return state


def _with_cells(state: State, running: Running, start: int, end: int) -> tuple[State, bool]:
    """The state in which a request may write its own cells from `start` to `end`, and whether there are as many.

    Where there are not it begins with what there is, and asks for more.
    """
    pieces, block = slot_of(state, running).pieces, state.next_block
    state = changed(state, next_block=block + 1)
    after = with_pieces(state, running, written(pieces, start, end, block))
    excess = count(slot.pieces for slot in after.slots) - state.limits.n_cells
    if excess <= 0:
        return after, True
    return with_pieces(state, running, written(pieces, start, end - excess, block)), False


def _start(state: State, running: Running, event: Found, now: float) -> tuple[State, list[Effect]]:
    sought, slot, limits = running.sought, slot_of(state, running), state.limits

    def choose(hit: Hit | None) -> tuple[Start, State, bool]:
        """A start, the state with the cells that it takes, and whether there are as many."""
        start = choose_start(
            slot, sought.packed, limits.memory, limits.n_swa, hit,
            event.logits is not None if running.parked is None else None, min_tokens=limits.min_tokens,
        )  # fmt: skip
        last = start.rows[-1].meta.end if start.rows else 0  # it may reach further than what is kept of it
        after, fits = _with_cells(state, running, start.live, max(running.limit, last))
        return start, after, fits

    effects: list[Effect] = []
    start, after, fits = choose(event.hit)
    # A row replaces what is shared of its span, so with rows it may take more cells than it was given a place for.
    while start.rows and not fits and state.kept:
        state, more = evict(state, state.kept[0])
        effects += more
        start, after, fits = choose(event.hit)
    if start.rows and not fits:
        start, after, _ = choose(None)
    state = after
    running = changed(running, found_at=now, hit=event.hit, start=start, logits=running.logits or event.logits)
    if not start.rows:
        state, more = work(state, running, now)
        return state, [*effects, *more]
    running = changed(running, stage="restoring", reading=True)
    return with_request(state, running), [*effects, ReadRows(running.request.id, start.rows)]


def row_read(state: State, event: RowRead, now: float) -> tuple[State, list[Effect]]:
    """A row was read, or there are no more of them."""
    running = state.requests.get(event.request_id)
    if running is None or running.stage != "restoring":
        return state, []
    assert running.start is not None
    assert running.seq_id is not None
    row, rows = event.row, running.start.rows
    if row is None or running.refused is not None:
        return _work_if_ready(state, changed(running, reading=False), now)
    meta, place = row.meta, running.sent
    job = Restore(
        request_id=event.request_id, seq_id=running.seq_id, start=meta.start, end=meta.end, payload=row.payload
    )
    running = changed(
        running,
        sent=place + 1,
        reading=place + 1 < len(rows),
        restored_bytes=running.restored_bytes + len(row.payload) + len(row.logits),
        # Rows on the way may have logits too: those of other prompts' ends.
        logits=running.logits or (row.logits if meta.end == running.request.n_tokens else None) or None,
    )
    return with_request(state, running), [SendJob(job)]


def restored(state: State, outcome: Restored, now: float) -> tuple[State, list[Effect]]:
    """The engine has taken a row, or refused it."""
    running = state.requests.get(outcome.request_id)
    if running is None or running.stage != "restoring":
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
            state, _ = _with_cells(state, running, 0, running.limit)
    state, effects = _work_if_ready(state, running, now)
    return state, [RowTaken(outcome.request_id), *effects]


def _work_if_ready(state: State, running: Running, now: float) -> tuple[State, list[Effect]]:
    if running.reading or (running.refused is None and running.restored < running.sent):
        return with_request(state, running), []
    return work(state, running, now)


def work(state: State, running: Running, now: float) -> tuple[State, list[Effect]]:
    """Everything that is to be had is in the cells: let the engine go on from there."""
    request, start, slot = running.request, running.start, slot_of(state, running)
    assert start is not None
    whole = running.restored == len(start.rows)
    keep, by_logits = start.keep, start.by_logits and running.logits is not None
    saved_to = max(running.hit.saved_to, running.saved_by_lead) if running.hit is not None else 0
    saved_to = min(saved_to, running.lost_from)
    if not whole:
        keep = start.rows[running.restored - 1].meta.end if running.restored else start.live
        missing = running.restored if running.refused is None else running.refused
        saved_to, by_logits = min(saved_to, start.rows[missing].meta.start), False
    elif not by_logits:
        keep = min(keep, running.sought.n_tokens - 1)
    kind = start.kind if running.restored or not start.rows else "live"
    if kind == "live" and running.sticky:
        kind = "sticky"
    if kind == "exact" and not whole:
        kind = "partial"
    running = changed(running, stage="working", last=CacheHit(kind if keep else "cold", keep))
    ended = end_look_up(running, now)
    limit = min(running.limit, slot.pieces[-1].end)
    state = with_slot(state, changed(slot, pieces=grown(slot.pieces, limit)))
    job: Generate | Resume
    if running.parked is not None:
        job = Resume(request_id=request.id, seq_id=slot.seq_id, keep=keep, limit=limit)
    else:
        if running.hit is None:  # without the cache nobody knows what is saved already: nothing is, until it is back
            request = changed(request, plan=None)
        job = Generate(
            request_id=request.id,
            seq_id=slot.seq_id,
            tokens=request.tokens,
            keep=keep,
            limit=limit,
            max_new_tokens=request.max_new_tokens,
            sampling=request.sampling,
            stop_sequences=request.stop_sequences,
            stream=running.stream,
            priority=request.priority,
            saves=_plan(request.plan, saved_to),
            logits=running.logits if by_logits else None,
            keep_logits=not by_logits,
        )
        running = changed(running, request=request, begun=outline(running, now), lost_from=NOTHING_LOST)
        if request.plan is not None:  # else its prompt is lost when it is parked, so its turn begins behind that
            running = is_back(running, now)
    running = changed(running, limit=limit, captured_to=max(running.captured_to, saved_to), answer=None)
    state = changed(with_request(state, running), last_hit=running.last)
    # Who is to share what is computed now: the engine does it when it is there.
    forks = [
        fork_job(other, slot.seq_id, other.lead_end)
        for other in state.requests.values()
        if other.lead == request.id and other.forking
    ]
    return state, [ended, SendJob(job), *forks]


def is_back(running: Running, now: float) -> Running:
    """A request gets on from now on: its turn begins."""
    since = now if running.coming_since is None else running.coming_since
    return changed(running, back_at=now, came_in=now - since)


def _plan(plan: CapturePlan | None, saved_to: int) -> CapturePlan | None:
    if plan is None:
        return None
    ends = tuple(end for end in plan.prompt_ends if end > saved_to)
    return changed(plan, captured_to=saved_to, prompt_ends=ends)


def leave_start(state: State, running: Running, now: float) -> tuple[State, list[Effect]]:
    """Take a request out of its sequence before the engine has begun with it.

    What it was to go on from stays; not where it is mixed with what was shared, or with rows that are on their way.
    """
    slot = slot_of(state, running)
    effects: list[Effect] = [end_look_up(running, now)] if running.stage != "following" else []
    if running.goes_on and running.stage != "restoring":
        first, captured_to = slot.first_held, slot.captured_to
        state = at_rest(state, slot, slot.held, first_held=first, captured_to=captured_to, now=now)
    else:
        effects.insert(0, SendJob(Drop(slot.seq_id)))
        state = with_slot(state, Slot(slot.seq_id))
    return without_request(state, running.request.id), effects


def end_look_up(running: Running, now: float) -> EndLookUp:
    """The rows of a look-up are not needed any more."""
    start = running.start
    rows = start.rows if start is not None else ()
    refused = rows[running.refused] if running.refused is not None else None
    seconds = now - (running.found_at or now)
    hit = running.last or CacheHit("cold", 0)
    resumed = running.request.parent_key is not None
    return EndLookUp(running.request.id, hit, rows[: running.restored], refused, seconds, resumed)


def outline(running: Running, now: float, miss_reason: str | None = None) -> Outline:
    """What there is to say of a request's start; that it was begun or parked before counts, not how it resumes."""
    if running.begun is not None:
        return changed(running.begun, created=running.created, parks=running.parks)
    start, found_at = running.start, running.found_at or now
    rows = start.rows[: running.restored] if start is not None else ()
    if miss_reason is None and start is not None:
        whole = running.restored == len(start.rows)
        miss_reason = start.miss_reason if whole else "a row could not be read"
    return Outline(
        hit=running.last or CacheHit("cold", 0),
        miss_reason=miss_reason,
        tier=rows[-1].tier if rows else None,
        lookup_seconds=found_at - running.started_at if running.started_at is not None else 0.0,
        restore_seconds=now - found_at,
        restored_bytes=running.restored_bytes,
        created=running.created,
    )
