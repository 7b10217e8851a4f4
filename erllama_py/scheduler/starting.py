"""How a request starts: what the cache found, the rows that are read and restored, the job that follows. Pure.

    Found ─▶ choose_start ─▶ ReadRows ─RowRead─▶ Restore ─Restored─▶ … ─▶ Generate, or Resume

Rows are sent to the engine as they come, and the generation begins when all are in. A row that cannot be read, or
that the engine refuses, ends the chain there: the request starts from what it has, and never fails because of it. So
does a row whose time shows that computing the rest takes less than putting it back.
"""

from __future__ import annotations

from erllama_py.cache.keys import TOKEN_BYTES, pack_tokens, prefix_keys
from erllama_py.cache.messages import Hit
from erllama_py.cache.policy import row_start
from erllama_py.engine.jobs import CapturePlan, Drop, Fork, Generate, Restore, Restored, Resume
from erllama_py.engine.rates import may_try
from erllama_py.results import CacheHit, CacheHitKind
from erllama_py.scheduler.cells import Pieces, Slot, count, grown, written
from erllama_py.scheduler.idle import evict
from erllama_py.scheduler.messages import (
    Effect,
    EndLookUp,
    Found,
    Outline,
    ReadRows,
    Request,
    RowRead,
    RowTaken,
    SendJob,
)
from erllama_py.scheduler.reuse import NOT_WORTH, Start, choose_start, pays
from erllama_py.scheduler.stages import (
    NOTHING_LOST,
    Begun,
    Core,
    Looking,
    Placed,
    Restoring,
    Share,
    Starting,
    Working,
    comes_back,
    most_kept,
    sought,
)
from erllama_py.scheduler.state import (
    Limits,
    State,
    changed,
    idle_after,
    slot_of,
    with_request,
    with_slot,
    without_request,
)

COLD = CacheHit("cold", 0)
# Seconds that a request waits for a pending save of its beginning before it computes that again.
SAVE_WAIT = 10.0
WHOLE = "prompt_logprobs has all of the prompt computed"


def core_of(request: Request, stream: bool, limits: Limits) -> Core:
    """A request that was asked for just now, or that an engine had before which has ended."""
    core, earlier = Core(request, stream), request.earlier
    if earlier is not None:
        core = changed(core, started_at=earlier.started_at)
    if request.drawn is None and earlier is None:
        return core
    # On a grid what was drawn is not saved, nor to be found in others' prompts.
    drawn = [] if request.drawn is None or limits.grid is not None else request.drawn.token_ids
    packed = request.packed + pack_tokens(drawn)
    saved = 0 if earlier is None else min(earlier.captured_to, len(packed) // TOKEN_BYTES)
    saved_key, key = prefix_keys(request.identity, packed, (saved, len(packed) // TOKEN_BYTES))
    whole = changed(request, tokens=[*request.tokens, *drawn], packed=packed, key=key)
    if saved:  # rows of it may still be on their way to a tier
        whole = changed(whole, parent_key=saved_key, wait_seconds=max(request.wait_seconds, SAVE_WAIT))
    return changed(core, whole=whole)


def found(state: State, event: Found, now: float) -> tuple[State, list[Effect]]:
    """The cache has answered: restore what it has, or begin at once; unless there is a share to wait for."""
    looking = state.placed.get(event.request_id)
    if not isinstance(looking, Looking) or looking.answer is not None:
        return state, []
    if looking.share is not None:
        return with_request(state, changed(looking, answer=event)), []
    return start(state, looking, event, now)


def fork_job(looking: Looking, source: int, length: int) -> SendJob:
    """The job that lets a request share another's beginning."""
    seq_id = looking.allocation.seq_id
    return SendJob(Fork(request_id=looking.core.request.id, source=source, seq_id=seq_id, length=length))


def _followers(state: State, leader: int) -> list[tuple[Looking, Share]]:
    """Those that are to share the cells of a request."""
    looking = (one for one in state.placed.values() if isinstance(one, Looking))
    return [(one, share) for one in looking if (share := one.share) is not None and share.leader == leader]


def with_pieces(state: State, one: Placed, pieces: Pieces) -> State:
    """The state in which a request has these cells, and those that are to share them have them as well.

    They have none of their own as long as their leader has too few for what they share.
    """
    state, end = with_slot(state, changed(slot_of(state, one), pieces=pieces)), pieces[-1].end
    for follower, share in _followers(state, one.core.request.id):
        slot = slot_of(state, follower)
        own, whole = slot.pieces[-1], share.end <= end
        shared = written(pieces, min(share.end, end), own.end if whole else 0, own.block)
        state = with_slot(state, changed(slot, pieces=shared))
    return state


def _with_cells(state: State, one: Placed, start: int, end: int) -> tuple[State, bool]:
    """The state in which a request may write its own cells from `start` to `end`, and whether there are as many. If
    not, it begins with what there is, and asks for more."""
    pieces, block = slot_of(state, one).pieces, state.next_block
    state = changed(state, next_block=block + 1)
    after = with_pieces(state, one, written(pieces, start, end, block))
    excess = count(slot.pieces for slot in after.slots) - state.limits.n_cells
    if excess <= 0:
        return after, True
    return with_pieces(state, one, written(pieces, start, end - excess, block)), False


def start(state: State, looking: Looking, event: Found, now: float) -> tuple[State, list[Effect]]:
    """Begin with the best of what the sequence holds and what the cache has."""
    slot, limits, first = slot_of(state, looking), state.limits, looking.begun is None
    prompt, most = sought(looking), most_kept(looking)
    kept = None if looking.core.request.drawn is not None else event.logits  # those that are kept are of prompts
    logits = kept is not None if first and looking.core.request.drawn is None else None

    def choose(hit: Hit | None) -> tuple[Start, State, bool]:
        """A start, the state with the cells that it takes, and whether there are as many."""
        start = choose_start(
            slot, prompt.packed, limits.memory, limits.n_swa, hit, logits, min_tokens=limits.min_tokens,
            grid=limits.grid, limit=most, rates=state.rates,
        )  # fmt: skip
        if most == 0:
            start = changed(start, miss_reason=WHOLE)
        last = start.rows[-1].meta.end if start.rows else 0  # it may reach further than what is kept of it
        after, fits = _with_cells(state, looking, start.live, max(looking.allocation.limit, last))
        return start, after, fits

    effects: list[Effect] = []
    start, after, fits = choose(event.hit)
    # A row replaces what is shared of its span, so with rows it may take more cells than it was given a place for.
    while start.rows and not fits and state.idle:
        state, more = evict(state, state.idle[0])
        effects += more
        start, after, fits = choose(event.hit)
    if start.rows and not fits:
        start, after, _ = choose(None)
    restoring = Restoring(
        changed(looking.core, logits=looking.core.logits or kept), looking.begun, looking.allocation,
        looking.since, looking.saved_by_leader, now, event.hit, start, reading=bool(start.rows),
    )  # fmt: skip
    if not start.rows:
        state, more = _work(after, restoring, now)
        return state, [*effects, *more]
    singly = len(start.rows) if start.trying else 0 if state.rates.into else 1
    return with_request(after, restoring), [*effects, ReadRows(event.request_id, start.rows, singly)]


def row_read(state: State, event: RowRead, now: float) -> tuple[State, list[Effect]]:
    """A row was read, or there are no more of them."""
    restoring, row = state.placed.get(event.request_id), event.row
    if not isinstance(restoring, Restoring):
        return state, []
    if row is None or restoring.refused is not None or restoring.stopped:
        return _work_if_ready(state, changed(restoring, reading=False), now)
    core, meta, sent = restoring.core, row.meta, restoring.sent + 1
    # Rows on the way may have logits too: those of other prompts' ends.
    logits = core.logits or (row.logits if meta.end == core.request.n_tokens else None) or None
    core = changed(core, restored_bytes=core.restored_bytes + len(row.payload) + len(row.logits), logits=logits)
    restoring = changed(restoring, core=core, sent=sent, reading=sent < len(restoring.start.rows))
    job = Restore(
        request_id=event.request_id, seq_id=restoring.allocation.seq_id, start=meta.start, end=meta.end,
        payload=row.payload,
    )  # fmt: skip
    return with_request(state, restoring), [SendJob(job)]


def restored(state: State, outcome: Restored, now: float) -> tuple[State, list[Effect]]:
    """The engine has taken a row, or refused it."""
    restoring = state.placed.get(outcome.request_id)
    if not isinstance(restoring, Restoring):
        return state, []
    if restoring.refused is None and outcome.ok:
        restoring = _unless_slow(state, changed(restoring, restored=restoring.restored + 1))
    elif restoring.refused is None:
        start, place = restoring.start, restoring.restored
        restoring = changed(restoring, refused=place, bad=outcome.bad, reading=False)
        if outcome.held < start.rows[place].meta.start:  # a refusal may leave nothing, see `Backend.restore`
            restoring = changed(restoring, restored=0, start=changed(start, live=0))
            state, _ = _with_cells(state, restoring, 0, restoring.allocation.limit)
    state, effects = _work_if_ready(state, restoring, now)
    return state, [RowTaken(outcome.request_id), *effects]


def _unless_slow(state: State, restoring: Restoring) -> Restoring:
    """Read no more rows where computing their tokens takes less time, as the last ones have shown."""
    rates, rest = state.rates, restoring.start.rows[restoring.sent :]
    if not rest or not restoring.reading or pays(rates, rest, restoring.start.keep - rest[0].meta.start):
        return restoring
    if may_try(rates, rest[0].meta.end - rest[0].meta.start):
        return restoring
    return changed(restoring, stopped=True, reading=False)


def _work_if_ready(state: State, restoring: Restoring, now: float) -> tuple[State, list[Effect]]:
    if restoring.reading or (restoring.refused is None and restoring.restored < restoring.sent):
        return with_request(state, restoring), []
    return _work(state, restoring, now)


def _work(state: State, restoring: Restoring, now: float) -> tuple[State, list[Effect]]:
    """Everything that is to be had is in the cells: let the engine compute the rest."""
    hit, by_logits, saved_to = _reached(restoring)
    core = changed(restoring.core, rows=restoring.start.rows[: restoring.restored])
    allocation, slot = restoring.allocation, slot_of(state, restoring)
    request, ended = core.request, _end_restoring(restoring, hit, now)
    allocation = changed(allocation, limit=min(allocation.limit, slot.pieces[-1].end))
    state = with_slot(state, changed(slot, pieces=grown(slot.pieces, allocation.limit)))
    job: Generate | Resume
    if restoring.begun is not None:
        job = Resume(request_id=request.id, seq_id=slot.seq_id, keep=hit.prefix_len, limit=allocation.limit)
        begun, ends = restoring.begun, (*restoring.begun.row_ends, saved_to)
        begun = changed(begun, captured_to=max(begun.captured_to, saved_to), row_ends=ends)
        working = Working(core, begun, allocation, restoring.since)
    else:
        if restoring.hit is None:  # what is saved already is unknown: save nothing until the cache is back
            request = changed(request, plan=None)
        job = Generate(
            request_id=request.id, seq_id=slot.seq_id, tokens=request.tokens, keep=hit.prefix_len,
            limit=allocation.limit, max_new_tokens=request.max_new_tokens, sampling=request.sampling,
            stop_sequences=request.stop_sequences, report=request.report, markers=request.markers,
            stream=core.stream, priority=request.priority, drawn=request.drawn,
            saves=_plan(request.plan, saved_to, restoring.hit), logits=core.logits if by_logits else None,
            keep_logits=not by_logits and state.limits.grid is None and request.lasting is None and not request.drawn,
            reproducible=state.limits.grid is not None, retrace=len(state.placed) == 1 and not state.pending,
            lost_seconds=_lost_seconds(request, now),
        )  # fmt: skip
        ends = (*(row.meta.end for row in core.rows), saved_to)
        begun = _begun(restoring, hit, saved_to, ends, now)
        core = changed(core, request=request, lost_from=NOTHING_LOST)
        working = Working(core, begun, allocation, restoring.since)
        # Without saves parking loses its prompt: the turn begins after that.
        if request.plan is not None and not comes_back(working):
            working = is_back(working, now)
    state = changed(with_request(state, working), last_hit=hit)
    # What is computed now, the engine shares with the followers once it is there.
    forks = [fork_job(one, slot.seq_id, share.end) for one, share in _followers(state, request.id)]
    return state, [ended, SendJob(job), *forks]


def _lost_seconds(request: Request, now: float) -> float:
    """How long ago an engine began with a request, but for what was told of it."""
    earlier = request.earlier
    if earlier is None or earlier.started_at is None:
        return 0.0
    out, told = earlier.outline, 0.0
    if request.drawn is not None:
        told = request.drawn.draws.prefill_seconds + request.drawn.draws.decode_seconds
    return max(0.0, now - earlier.started_at - out.lookup_seconds - out.restore_seconds - told)


def _begun(restoring: Restoring, hit: CacheHit, saved_to: int, row_ends: tuple[int, ...], now: float) -> Begun:
    """The engine begins with a request: the first one that does, or the next after an earlier life."""
    request = restoring.core.request
    if (earlier := request.earlier) is not None:
        out = earlier.outline
        kept, length = out.kept, hit.prefix_len
        return Begun(out, sought(restoring), saved_to, row_ends, created=out.created, kept=kept, found=length)
    out = _outline_of(restoring, changed(hit, prefix_len=min(hit.prefix_len, request.n_tokens)), now)
    return Begun(out, sought(restoring), saved_to, row_ends, found=hit.prefix_len)


def _reached(restoring: Restoring) -> tuple[CacheHit, bool, int]:
    """What a request starts from, whether its first token is drawn from kept logits, and up to where it is saved."""
    start, hit = restoring.start, restoring.hit
    whole = restoring.restored == len(start.rows)
    keep, by_logits = start.keep, start.by_logits and restoring.core.logits is not None
    saved_to = max(hit.saved_to, restoring.saved_by_leader) if hit is not None else 0
    saved_to = min(saved_to, restoring.core.lost_from)
    if not whole:
        keep = start.rows[restoring.restored - 1].meta.end if restoring.restored else start.live
        missing = restoring.restored if restoring.refused is None else restoring.refused
        if not restoring.stopped or restoring.refused is not None:  # else they are saved all the same
            saved_to = min(saved_to, start.rows[missing].meta.start)
        by_logits = False
    elif not by_logits:
        keep = min(keep, sought(restoring).n_tokens - 1)
    kind: CacheHitKind = start.kind if restoring.restored or not start.rows else "live"
    if kind == "live" and restoring.allocation.sticky:
        kind = "sticky"
    if kind == "exact" and not whole:
        kind = "partial"
    return CacheHit(kind if keep else "cold", keep), by_logits, saved_to


def is_back(working: Working, now: float) -> Working:
    """A request advances from now on: its turn begins."""
    return changed(working, back_at=now, came_in=now - working.since)


def _plan(plan: CapturePlan | None, saved_to: int, hit: Hit | None) -> CapturePlan | None:
    if plan is None:
        return None
    ends, begin = tuple(end for end in plan.prompt_ends if end > saved_to), None
    if plan.apart and hit is not None:
        saved = {end: start for end, start in hit.saved if end <= saved_to}
        begin = row_start(saved, plan.prompt_ends, apart=plan.apart) if saved_to in saved else None
    return changed(plan, captured_to=saved_to, prompt_ends=ends, begin=begin)


def leave_start(state: State, one: Starting, now: float) -> tuple[State, list[Effect]]:
    """Take a request out of its sequence before the engine has begun with it.

    What it was to begin with stays; not where it is mixed with what was shared, or with rows that are being restored.
    """
    slot, effects = slot_of(state, one), list[Effect]()
    hit = COLD if one.begun is None else one.begun.outline.hit
    if one.allocation.goes_on and not isinstance(one, Restoring):
        state = idle_after(state, slot, slot.packed, first=slot.first, captured_to=slot.captured_to, now=now)
    else:
        state = with_slot(state, Slot(slot.seq_id))
        effects.append(SendJob(Drop(slot.seq_id)))
    if isinstance(one, Restoring):
        effects.append(_end_restoring(one, hit, now))
    elif isinstance(one, Looking):
        resumed = one.core.request.parent_key is not None
        effects.append(EndLookUp(one.core.request.id, hit, (), None, 0.0, resumed))
    return without_request(state, one.core.request.id), effects


def _end_restoring(restoring: Restoring, hit: CacheHit, now: float) -> EndLookUp:
    """The rows of a look-up are not needed any more."""
    rows, request = restoring.start.rows, restoring.core.request
    refused = rows[restoring.refused] if restoring.refused is not None else None
    seconds, resumed = now - restoring.found_at, request.parent_key is not None
    ended = EndLookUp(request.id, hit, rows[: restoring.restored], refused, seconds, resumed, restoring.bad)
    return changed(ended, stopped=restoring.stopped)


def _outline_of(restoring: Restoring, hit: CacheHit, now: float) -> Outline:
    start = restoring.start
    whole = restoring.restored == len(start.rows)
    outline = _outline(restoring.core, restoring.found_at, now)
    left = NOT_WORTH if restoring.stopped and restoring.refused is None else "a row could not be read"
    return changed(
        outline, hit=hit, miss_reason=start.miss_reason if whole else left,
        tier=start.rows[restoring.restored - 1].tier if restoring.restored else None,
    )  # fmt: skip


def cancelled_outline(core: Core, placed: Starting | None, now: float) -> Outline:
    """What there is to say of a request that was cancelled before its generation began; in an earlier life it may have,
    and then what that said is the answer's."""
    if core.request.earlier is not None:
        return core.request.earlier.outline
    where = "before" if placed is None else "while"
    reason = f"cancelled {where} it was looked up"
    if isinstance(placed, Restoring):
        return changed(_outline_of(placed, COLD, now), miss_reason=reason)
    return changed(_outline(core, now, now), miss_reason=reason)


def _outline(core: Core, found_at: float, now: float) -> Outline:
    looked = found_at - core.started_at if core.started_at is not None else 0.0
    restored = now - found_at
    return Outline(hit=COLD, lookup_seconds=looked, restore_seconds=restored, restored_bytes=core.restored_bytes)


def outline(begun: Begun) -> Outline:
    """How a request began, and what was saved of it; parks are counted, but not how it resumed."""
    parks = begun.outline.parks + begun.parks  # those of an earlier life, and of this one
    return changed(begun.outline, created=begun.created, kept=begun.kept, parks=parks)
