"""Which request is next in the queue, whose turn in the cells is over, and which is parked for another. Pure.

Requests of one priority that do not fit together take turns:

    parked ──has waited for a turn──▶ displaces the equal that has worked longest, a turn at least ──▶ that is parked

Parked ones come first, in the order in which they were parked; a request that was never started displaces no equal.
A turn counts from when a request is *back*: it has computed something that it had not when it was parked. It lasts
`turn_seconds`, or `TURN_SHARE` times as long as coming back took, if that is longer: counted from when it got the
place, or the cells that it shares. So each request that gets a place advances, and coming back takes at most a ninth of
it and a whole turn. A turn ends early only for a request that grows, or for a higher priority.

The bound, where `p` requests of one priority are parked and at least `k` fit at a time: none is parked for longer than
`ceil(p / k)` times (the longest turn + what it takes to park one and bring another back), and coming back once.
"""

from __future__ import annotations

from collections.abc import Sequence

from erllama_py.scheduler.stages import (
    Following,
    Looking,
    Parked,
    Parking,
    Placed,
    Queued,
    Restoring,
    Waiting,
    Working,
    comes_back,
    queue_rank,
    rank,
    sought,
)
from erllama_py.scheduler.state import State

# A turn is this many times as long as coming back took. Where nothing is saved all is computed again, for seconds
# maybe, and the others' decodes carry parts of it: with 4 instead of 8, four streams of SmolLM2 lost a third of their
# rate. Where rows come back, in some tens of milliseconds, `turn_seconds` is the longer one.
TURN_SHARE = 8


def next_up(state: State) -> Queued | None:
    """The next that gets a place: the first in the queue that does not wait for its session.

    A session's turns come one after the other: the one that was started, then by arrival. Ids are drawn before long
    prompts are hashed, so a request that was started may meet one with a lower id. None begins while what the session
    has left is still being copied out.
    """
    if not state.pending:
        return None
    copied = {copy.session for copy in state.copies.values()} - {None}
    begun = {one.core.request.session for one in (*state.placed.values(), *state.parked.values())} - {None}
    parked = [one for one in state.parked.values() if not one.begun.leaving and one.core.request.session not in copied]
    busy = copied | begun
    waiting = next((one for one in state.queue.in_line() if one.core.request.session not in busy), None)
    ready: list[Queued] = [*parked] if waiting is None else [*parked, waiting]
    return min(ready, key=queue_rank, default=None)


def parkable(state: State) -> list[Working]:
    """Requests at work, which can be parked."""
    return [one for one in state.placed.values() if isinstance(one, Working) and not one.begun.leaving]


def returnable(state: State) -> list[Following | Looking]:
    """Requests that have not begun and can be put back into the queue.

    Not while rows, or cells to share, are under way: they would be taken for those of its next start. It is at work
    soon, and can be parked then.
    """
    starting = (one for one in state.placed.values() if isinstance(one, Following | Looking))
    return [one for one in starting if not _is_forking(state, one)]


def _is_forking(state: State, one: Following | Looking) -> bool:
    """Whether the engine was asked to share cells with it."""
    if isinstance(one, Following) or one.share is None:
        return False
    leader = state.placed.get(one.share.leader) if one.share.leader is not None else None
    return leader is None or isinstance(leader, Working | Parking)


def turn_end(state: State, one: Placed) -> float | None:
    """When the turn of a request is over; None while it is not at work, or not back yet."""
    if not isinstance(one, Working) or one.back_at is None:
        return None
    return one.back_at + max(state.limits.turn_seconds, TURN_SHARE * one.came_in)


def turn_is_over(state: State, one: Placed, now: float) -> bool:
    """Whether a request has had its turn."""
    end = turn_end(state, one)
    return end is not None and end <= now


def victims(state: State, one: Queued, now: float) -> list[Working | Following | Looking]:
    """Those that a request may displace: of lower priority, the lowest first; then equals whose turn is over."""
    there = [*parkable(state), *returnable(state)]
    lower = [other for other in there if other.core.request.priority < one.core.request.priority]
    return [*sorted(lower, key=rank, reverse=True), *_displaced_by(state, one, now)]


def _displaced_by(state: State, one: Queued, now: float) -> list[Working]:
    """The equals that a request which has waited for a turn may displace, first the one that has worked longest."""
    if isinstance(one, Waiting) or one.begun.parked_at + state.limits.turn_seconds > now:
        return []
    over = [other for other in parkable(state) if _are_equal(other, one) and turn_is_over(state, other, now)]
    return sorted(over, key=lambda other: (other.back_at, other.core.request.id))


def _are_equal(one: Placed, other: Queued) -> bool:
    return one.core.request.priority == other.core.request.priority


def next_turn(state: State, now: float) -> float | None:
    """When the next in the queue may displace one request more than now."""
    one = next_up(state)
    if not isinstance(one, Parked) or state.stopping:
        return None
    waited = one.begun.parked_at + state.limits.turn_seconds
    ends = (turn_end(state, other) for other in parkable(state) if _are_equal(other, one))
    return min((when for end in ends if end is not None and (when := max(end, waited)) > now), default=None)


def gives_way(state: State, growing: Working, working: Sequence[Working], now: float) -> Working | None:
    """Which of those at work is parked because `growing` needs more cells, itself maybe. None: not yet.

    A lower priority first; of equals one that has had its turn, then the last that came. One that is not back yet is
    waited for: parked again, it would have been restored for nothing.
    """
    priority = growing.core.request.priority
    below = [one for one in working if one.core.request.priority <= priority]
    if not below:
        return None

    def order(one: Working) -> tuple[int, bool, int]:
        return one.core.request.priority, not turn_is_over(state, one, now), -one.core.request.id

    last = min(below, key=order)
    return None if last.core.request.priority == priority and _comes_back(last) else last


def _comes_back(working: Working) -> bool:
    """Whether a request that was parked has yet to advance, and has the cells to do so."""
    if not comes_back(working) or working.back_at is not None:
        return False
    return working.allocation.limit >= sought(working).n_tokens


def is_parking(state: State) -> bool:
    """Whether a request is being parked: nothing else is decided meanwhile, so that one shortage parks at most one."""
    return any(isinstance(one, Parking) for one in state.placed.values())


def is_starving(state: State, priority: int) -> bool:
    """Whether a request at work waits for cells: of this priority or a higher one, or until rows are restored, which is
    soon. One of lower priority may wait until another one comes back, which is not soon beside others."""
    starving = [one for one in state.placed.values() if isinstance(one, Working) and one.starving]
    if any(one.core.request.priority >= priority for one in starving):
        return True
    return bool(starving) and any(isinstance(one, Restoring) for one in state.placed.values())
