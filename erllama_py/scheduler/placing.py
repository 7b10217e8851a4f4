"""Where a request goes, what it begins with, and what makes room for it. Pure.

The laws: a sequence has one request at most; cells granted to requests and kept by others never pass what the context
has; idle sequences go before any request is parked, and the source of what is shared last of them; a request is never
parked for one of lower rank, and for an equal only after a turn (`preempt`); the head of the queue is never overtaken.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from erllama_py.cache.keys import common_prefix
from erllama_py.scheduler.cells import Pieces, Slot, count, written
from erllama_py.scheduler.preempt import victims
from erllama_py.scheduler.reuse import capped, reusable
from erllama_py.scheduler.stages import Open, Parking, Placed, Queued, is_prefilled, leader_of, most_kept, sought
from erllama_py.scheduler.state import State, slot_of

# The beginning of a request at work is shared from this many tokens on: one that shares it waits until it is computed,
# and nearly all prompts begin alike for a few tokens, those of their template. What is idle is there: any is shared.
LEAST_SHARED = 16
# A session leaves the sequence that it extends only for cells that save it this many tokens more: the next request that
# comes may take that sequence, with all that only it holds.
LEAST_TO_LEAVE = 16


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """What a prompt could begin with: its first `keep` tokens, and how they come to be in its sequence."""

    seq_id: int | None = None  # the sequence that is taken over as it is
    keep: int = 0
    source: int | None = None  # the sequence that they are shared with; None: they are there already
    leader: int | None = None
    """The request that is still computing them, or is about to save them; waited for until it is at `leader_end`."""
    leader_end: int = 0


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A sequence for a request, and what it begins with there."""

    seq_id: int
    begin: Beginning
    pieces: Pieces
    limit: int  # the position up to which there are cells
    evict: tuple[int, ...]  # idle sequences that make room


class Park(msgspec.Struct, frozen=True):
    """There is no place until these requests are parked or, if they have not begun, back in the queue."""

    requests: tuple[int, ...]


def place(state: State, one: Queued, now: float) -> Place | Park | None:
    """The best place for a request now; None when it has to wait."""
    begin, displaced = beginning(state, one), victims(state, one, now)
    slot = free = _sequence_for(state, begin)
    if slot is None:
        if not displaced:
            return None
        slot = slot_of(state, displaced[0])
    prompt, limits = sought(one), state.limits
    if begin.seq_id is None and slot.is_idle and begin.source in (None, slot.seq_id):  # cut it back
        keep = _reusable(state, slot, one) if slot.identity == prompt.identity else 0
        begin = msgspec.structs.replace(begin, seq_id=slot.seq_id, source=None, keep=keep)
    limit = min(prompt.n_tokens + limits.quantum, most_cells(one))
    base = state.slots[slot.seq_id if begin.source is None else begin.source].pieces
    pieces = written(base, begin.keep, max(limit, begin.keep), state.next_block)
    fits, evict = _room_for(state, slot.seq_id, pieces, begin.source)
    if fits and free is not None:
        return Place(seq_id=slot.seq_id, begin=begin, pieces=pieces, limit=limit, evict=evict)
    for most in range(1, len(displaced) + 1):
        if _room_for(state, slot.seq_id, pieces, begin.source, displaced[:most])[0]:
            return Park(tuple(other.core.request.id for other in displaced[:most]))
    return None


def beginning(state: State, one: Open) -> Beginning:
    """The beginning that gives a prompt the most tokens."""
    mine, other = _own(state, one), shared(state, one)
    own = mine.seq_id is not None and state.slots[mine.seq_id].session_id is not None
    least = mine.keep + (LEAST_TO_LEAVE if own else 1)  # a session leaves its cells only for what is worth it
    return other if other.keep >= least or (mine.seq_id is None and other.leader is not None) else mine


def _sequence_for(state: State, begin: Beginning) -> Slot | None:
    """The one to take over, a free one, or the first of the idle; the source itself only if it is the last."""
    if begin.seq_id is not None:
        return state.slots[begin.seq_id]
    free = next((slot for slot in state.slots if slot.is_free), None)
    idle = sorted(state.idle, key=lambda slot: slot.seq_id == begin.source)
    return free or (idle[0] if idle else None)


def _room_for(
    state: State, seq_id: int, pieces: Pieces, source: int | None = None, parked: Sequence[Placed] = ()
) -> tuple[bool, tuple[int, ...]]:
    """Whether a sequence can have these cells, and which idle ones have to go for it."""
    limits, out = state.limits, {seq_id, *(one.allocation.seq_id for one in parked)}
    spare = [slot for slot in state.idle if slot.seq_id != seq_id]
    spare.sort(key=lambda slot: slot.seq_id == source)
    others = [one for one in state.placed.values() if one.allocation.seq_id not in out]
    most = limits.n_cells - limits.quantum * len(others)  # they will soon want more
    at_work = [slot_of(state, one).pieces for one in others]

    def fits(kept: Sequence[Slot]) -> bool:
        cells = count([pieces, *at_work, *(slot.pieces for slot in kept)])
        return cells <= most and not has_too_many(state, kept)

    gone = next((gone for gone in range(len(spare) + 1) if fits(spare[gone:])), None)
    return gone is not None, tuple(slot.seq_id for slot in spare[:gone])


def has_too_many(state: State, kept: Sequence[Slot]) -> bool:
    """Whether more than `kept_cells` are kept beside those at work.

    A session of a model that saves nothing does not count: it holds the only copy of what it has computed.
    """
    bounded = [slot.pieces for slot in kept if slot.session_id is None or state.limits.min_tokens is not None]
    return count(bounded) > state.limits.kept_cells


def most_cells(one: Open) -> int:
    """Up to where a request can come: what is sampled last is never decoded."""
    return one.core.request.n_tokens + max(0, one.core.request.max_new_tokens - 1)


def _own(state: State, one: Open) -> Beginning:
    """An idle sequence that the prompt extends, to be taken over as it is; its session's before all others."""
    prompt = sought(one)
    best, best_rank = Beginning(), (False, 0)
    for slot in state.slots:
        if not slot.is_idle or slot.identity != prompt.identity or slot.session_id not in (None, prompt.session_id):
            continue
        keep = _reusable(state, slot, one)
        rank = (slot.session_id is not None, keep)
        if keep == slot.length and rank > best_rank:
            best, best_rank = Beginning(seq_id=slot.seq_id, keep=keep), rank
    return best


def _reusable(state: State, slot: Slot, one: Open) -> int:
    """How much of an idle sequence a request may keep."""
    limits, most = state.limits, most_kept(one)
    reuse = reusable(
        slot, sought(one).packed, limits.memory, limits.n_swa, with_logits=True, grid=limits.grid, limit=most
    )
    return reuse.keep


def shared(state: State, one: Open) -> Beginning:
    """The longest beginning to share: of an idle sequence, or of a request at work whose prompt is or will be computed.

    Only full attention shares cells. Of other kinds of memory the rows are shared that the first of them saves.
    """
    prompt, full, most = sought(one), state.limits.memory == "full", most_kept(one)
    best = Beginning()
    for slot in state.slots:
        if full and slot.is_idle and slot.identity == prompt.identity:
            keep = capped(common_prefix(slot.packed, prompt.packed), most)
            if keep > best.keep:
                best = Beginning(keep=keep, source=slot.seq_id)
    for other in state.placed.values():
        theirs, plan = sought(other), other.core.request.plan
        stranger = theirs.id == prompt.id or theirs.identity != prompt.identity
        # That prompt may be read after those of all others, and a follower would wait as long.
        later = not is_prefilled(other) and theirs.priority < prompt.priority
        if stranger or later or leader_of(other) is not None or isinstance(other, Parking):
            continue
        keep = capped(common_prefix(theirs.packed, prompt.packed), most)
        if full and keep >= max(LEAST_SHARED, best.keep + 1):
            best = Beginning(keep=keep, source=other.allocation.seq_id, leader=theirs.id, leader_end=keep)
        elif not full and not is_prefilled(other) and plan is not None:
            end = max((end for end in plan.prompt_ends if end <= keep), default=0)
            if end >= max(LEAST_SHARED, best.leader_end + 1):
                best = Beginning(leader=theirs.id, leader_end=end)
    return best
