"""Who is next in the queue, and whose turn in the cells is over. Pure.

Requests of one priority that do not fit together take turns:

    parked ──has waited for a turn──▶ displaces the equal that has worked longest, a turn at least ──▶ that is parked

Parked ones come first, in the order in which they were parked; a request that was never started displaces no equal.
A turn counts from when a request is *back*: it has computed something that it had not when it was parked. It lasts
`turn_seconds`, or `TURN_SHARE` times as long as coming back took, if that is longer: from the place on, or from when
what it shares with another was there. So each request that is given a place gets on, and coming back takes a ninth at
most of it and a whole turn. Only for one that grows, or for a higher priority, a turn may end before.

The bound, where `p` requests of one priority are parked and at least `k` fit at a time: none is parked for longer than
`ceil(p / k)` times (the longest turn + what it takes to park one and bring another back), and coming back once.
"""

from __future__ import annotations

from erllama_py.scheduler.messages import SessionKey
from erllama_py.scheduler.state import Running, State

# A turn is so many times as long as coming back took. Where nothing is saved all is computed again, for seconds maybe,
# and the others' decodes carry parts of it: with 4 instead of 8, four streams of SmolLM2 lost a third of their rate.
# Where rows come back, in some tens of milliseconds, `turn_seconds` is the longer one.
TURN_SHARE = 8


def next_up(state: State) -> Running | None:
    """Whose place is looked for: who comes first of those who wait and do not wait for their session."""
    queue = [running for running in state.queue if not running.leaving]
    if not queue:
        return None
    turns = _session_turns(state)
    ready = (one for one in queue if one.request.session is None or one.request.id in turns)
    return min(ready, key=lambda running: running.queue_rank, default=None)


def _session_turns(state: State) -> set[int]:
    """The request of each session whose turn it is; of none as long as what one has left is copied out.

    That is the one that has begun, then who came first: ids are drawn before long prompts are hashed, so a request
    that has begun may meet one with a lower id.
    """

    def place(running: Running) -> tuple[bool, int]:
        return running.started_at is None, running.request.id

    first: dict[SessionKey, Running] = {}
    for running in state.requests.values():
        session = running.request.session
        if session is not None and (session not in first or place(running) < place(first[session])):
            first[session] = running
    copied = {copy.session for copy in state.copies.values()}
    return {running.request.id for session, running in first.items() if session not in copied}


def turn_end(state: State, running: Running) -> float | None:
    """When the turn of a request is over; None while it is not at work, or not back yet."""
    if running.stage != "working" or running.back_at is None:
        return None
    return running.back_at + max(state.limits.turn_seconds, TURN_SHARE * running.came_in)


def turn_is_over(state: State, running: Running, now: float) -> bool:
    """Whether a request has had its turn."""
    end = turn_end(state, running)
    return end is not None and end <= now


def displaced_by(state: State, running: Running, now: float) -> list[Running]:
    """The equals that a request which has waited for a turn may push out; who has worked longest goes first."""
    if running.parked_at is None or running.parked_at + state.limits.turn_seconds > now:
        return []
    over = [one for one in _equals(state, running) if turn_is_over(state, one, now)]
    return sorted(over, key=lambda one: (one.back_at, one.request.id))


def _equals(state: State, running: Running) -> list[Running]:
    return [one for one in state.active if one.request.priority == running.request.priority and not one.leaving]


def next_turn(state: State, now: float) -> float | None:
    """When the next in the queue may push out one more than now."""
    running = next_up(state)
    if running is None or running.parked_at is None or state.stopping:
        return None
    waited = running.parked_at + state.limits.turn_seconds
    ends = (turn_end(state, one) for one in _equals(state, running))
    return min((when for end in ends if end is not None and (when := max(end, waited)) > now), default=None)


def gives_way(state: State, running: Running, working: list[Running], now: float) -> Running | None:
    """Who of those at work is parked because `running` needs more cells, itself maybe. None: not yet.

    A lower priority first; of equals one that has had its turn, then who came last. One that is not back yet is waited
    for: parked again, it would have been restored for nothing.
    """
    below = [one for one in working if one.request.priority <= running.request.priority]
    if not below:
        return None
    last = min(below, key=lambda one: (one.request.priority, not turn_is_over(state, one, now), -one.request.id))
    return None if last.request.priority == running.request.priority and _comes_back(last) else last


def _comes_back(running: Running) -> bool:
    """Whether a request that was parked has yet to get on, and has the cells to do so."""
    return running.parked is not None and running.back_at is None and running.limit >= running.sought.n_tokens
