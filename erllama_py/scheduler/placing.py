"""Where a request goes, what it begins with, and who makes room for it. Pure.

The laws: a sequence has one request at most; cells granted to requests and kept by others never pass what the context
has; sequences at rest go before anyone is parked, and the source of what is shared last of them; nobody is parked for
a request of lower priority, and for an equal only after a turn (`turns`); who is next in the queue is never passed by.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from erllama_py.cache.keys import common_prefix
from erllama_py.scheduler.books import Pieces, count, written
from erllama_py.scheduler.slots import Slot, reusable
from erllama_py.scheduler.state import Running, State, slot_of
from erllama_py.scheduler.turns import displaced_by

# A beginning is shared from so many tokens on. Sharing cells costs nothing, but a request that shares those of another
# waits until they are computed, and nearly all prompts begin alike for a few tokens, those of their template.
LEAST_SHARED = 16
# A session leaves the sequence that it goes on from only for cells that spare it so many tokens more: the sequence goes
# to whoever comes, with all that only it holds.
LEAST_TO_LEAVE = 16


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A sequence for a request, and how its first `keep` tokens come to be there."""

    seq_id: int
    keep: int
    source: int | None
    """The sequence that they are shared with; None: they are there already."""
    lead: int | None
    """The request that still computes them, or what it saves of them; waited for until it is at `lead_end`."""
    lead_end: int
    pieces: Pieces
    limit: int
    """The position up to which there are cells."""
    evict: tuple[int, ...]
    """Sequences at rest that make room."""


class Park(msgspec.Struct, frozen=True):
    """There is no place until these requests are parked, or, who has not begun, are back in the queue."""

    requests: tuple[int, ...]


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """What a prompt could begin with: see `Place`. `seq_id` is set where it is taken over as it is."""

    seq_id: int | None = None
    keep: int = 0
    source: int | None = None
    lead: int | None = None
    lead_end: int = 0


def place(state: State, running: Running, now: float) -> Place | Park | None:
    """The best place for a request now; None when it has to wait."""
    begin, victims = beginning(state, running), _victims(state, running, now)
    slot = free = _sequence_for(state, begin)
    if slot is None:
        if not victims:
            return None
        slot = slot_of(state, victims[0])
    sought, limits = running.sought, state.limits
    if begin.seq_id is None and slot.is_kept and begin.source in (None, slot.seq_id):  # cut it back
        same = slot.identity == sought.identity
        reuse = reusable(slot, sought.packed, limits.memory, limits.n_swa, with_logits=True)
        begin = msgspec.structs.replace(begin, seq_id=slot.seq_id, source=None, keep=reuse.keep if same else 0)
    limit = min(sought.n_tokens + limits.quantum, most_cells(running))
    base = state.slots[slot.seq_id if begin.source is None else begin.source].pieces
    pieces = written(base, begin.keep, max(limit, begin.keep), state.next_block)
    fits, evict = _room_for(state, slot.seq_id, pieces, begin.source)
    if fits and free is not None:
        return Place(
            seq_id=slot.seq_id, keep=begin.keep, source=begin.source, lead=begin.lead, lead_end=begin.lead_end,
            pieces=pieces, limit=limit, evict=evict,
        )  # fmt: skip
    park: list[Running] = []
    for victim in victims:
        park.append(victim)
        if _room_for(state, slot.seq_id, pieces, begin.source, park)[0]:
            return Park(tuple(one.request.id for one in park))
    return None


def beginning(state: State, running: Running) -> Beginning:
    """What gives a prompt the most."""
    mine, other = _own(state, running), shared(state, running)
    own = mine.seq_id is not None and state.slots[mine.seq_id].session_id is not None
    least = mine.keep + (LEAST_TO_LEAVE if own else 1)  # a session leaves its cells only for what is worth it
    return other if other.keep >= least or (mine.seq_id is None and other.lead is not None) else mine


def _sequence_for(state: State, begin: Beginning) -> Slot | None:
    """The one to take over, a free one, or the first of those at rest; the source itself only if it is the last."""
    if begin.seq_id is not None:
        return state.slots[begin.seq_id]
    free = next((slot for slot in state.slots if slot.is_free), None)
    kept = sorted(state.kept, key=lambda slot: slot.seq_id == begin.source)
    return free or (kept[0] if kept else None)


def _room_for(
    state: State, seq_id: int, pieces: Pieces, source: int | None = None, parked: Sequence[Running] = ()
) -> tuple[bool, tuple[int, ...]]:
    """Whether a sequence can have these cells, and which of those at rest have to go for it."""
    limits, out = state.limits, {seq_id, *(one.seq_id for one in parked)}
    spare = [slot for slot in state.kept if slot.seq_id != seq_id]
    spare.sort(key=lambda slot: slot.seq_id == source)
    others = [running for running in state.active if running.seq_id not in out]
    most = limits.n_cells - limits.quantum * len(others)  # they will soon want more
    gone: list[int] = []
    while True:
        kept = spare[len(gone) :]
        at_work = [state.slots[running.seq_id].pieces for running in others if running.seq_id is not None]
        fits = count([pieces, *at_work, *(slot.pieces for slot in kept)]) <= most
        if fits and not has_too_many(state, kept):
            return fits, tuple(gone)
        if not kept:
            return False, tuple(gone)
        gone.append(spare[len(gone)].seq_id)


def has_too_many(state: State, kept: Sequence[Slot]) -> bool:
    """Whether more than `kept_cells` are kept beside those at work.

    A session of a model that saves nothing does not count: it holds the only copy of what it has computed.
    """
    bounded = [slot.pieces for slot in kept if slot.session_id is None or state.limits.min_tokens is not None]
    return count(bounded) > state.limits.kept_cells


def most_cells(running: Running) -> int:
    """Up to where a request can come: what is sampled last is never decoded."""
    return running.request.n_tokens + max(0, running.request.max_new_tokens - 1)


def parkable(state: State) -> list[Running]:
    """Requests at work, which can be parked."""
    return [r for r in state.requests.values() if r.stage == "working" and not r.leaving]


def can_go_back(state: State, running: Running) -> bool:
    """Whether a request that has not begun can be put back into the queue.

    Not while rows, or cells to share, are on their way: they would be taken for those of its next start. It is at work
    soon, and can be parked then.
    """
    lead = state.requests.get(running.lead) if running.lead is not None else None
    asked = running.forking and (lead is None or lead.stage in ("working", "parking"))
    return running.stage in ("following", "looking") and not asked


def _victims(state: State, running: Running, now: float) -> list[Running]:
    """Those whom a request may push out: of lower priority in the same order, who has not begun among them; then
    equals whose turn is over."""
    lower = [one for one in state.active if one.request.priority < running.request.priority and not one.leaving]
    there = [one for one in lower if one.stage == "working" or can_go_back(state, one)]
    return [*sorted(there, key=lambda one: one.rank, reverse=True), *displaced_by(state, running, now)]


def _own(state: State, running: Running) -> Beginning:
    """A sequence at rest that the prompt goes on from, to be taken over as it is; its session's before all others."""
    sought, limits = running.sought, state.limits
    best, best_rank = Beginning(), (False, 0)
    for slot in state.slots:
        if not slot.is_kept or slot.identity != sought.identity or slot.session_id not in (None, sought.session_id):
            continue
        keep = reusable(slot, sought.packed, limits.memory, limits.n_swa, with_logits=True).keep
        rank = (slot.session_id is not None, keep)
        if keep == slot.length and rank > best_rank:
            best, best_rank = Beginning(seq_id=slot.seq_id, keep=keep), rank
    return best


def shared(state: State, running: Running) -> Beginning:
    """What else it begins like: a sequence at rest, or a request at work, whose prompt is or will be computed.

    Only full attention shares cells. Of other kinds of memory the rows are shared that who comes first saves.
    """
    sought, full = running.sought, state.limits.memory == "full"
    best = Beginning(keep=LEAST_SHARED - 1, lead_end=LEAST_SHARED - 1)
    for slot in state.slots:
        if full and slot.is_kept and slot.identity == sought.identity:
            keep = common_prefix(slot.held, sought.packed)
            if keep > best.keep:
                best = Beginning(keep=keep, source=slot.seq_id)
    for other in state.active:
        stranger = other.request.id == sought.id or other.sought.identity != sought.identity
        # That prompt may be read behind those of all others, and whoever followed it would wait as long.
        behind = not other.prefilled and other.request.priority < running.request.priority
        if stranger or behind or other.lead is not None or other.stage == "parking":
            continue
        keep = common_prefix(other.sought.packed, sought.packed)
        if full and keep > best.keep:
            best = Beginning(keep=keep, source=other.seq_id, lead=other.request.id, lead_end=keep)
        elif not full and not other.prefilled and (plan := other.request.plan):
            end = max((end for end in plan.prompt_ends if end <= keep), default=0)
            if end > best.lead_end:
                best = Beginning(lead=other.request.id, lead_end=end)
    return best if best.source is not None or best.lead is not None else Beginning()
