"""Laws of the queue and of turns, for each step of a machine, whatever the event."""

from __future__ import annotations

from erllama_py.engine.jobs import Wants
from erllama_py.scheduler.messages import EngineOutcomes, Message, Submit
from erllama_py.scheduler.state import State
from erllama_py.scheduler.turns import turn_is_over

LOWEST = -1 << 30


def check_turns(before: State, after: State) -> None:
    """Nobody who waits and could begin is passed by."""
    waited = {running.request.id for running in before.queue}
    begun = [running for running in after.active if running.request.id in waited]
    for running in after.queue:
        mine, request_id = running.request.session, running.request.id
        turns = {r.request.id for r in before.requests.values() if mine and r.request.session == mine}
        copied = any(mine and copy.session == mine for copy in after.copies.values())
        if request_id in waited and not (running.leaving or copied or request_id > min(turns, default=request_id)):
            assert all(other.queue_rank < running.queue_rank for other in begun)


def check_parks(before: State, after: State, event: Message, now: float) -> None:
    """Nobody is parked but for one that grows, for a higher priority, or after its turn."""
    outcomes = event.batch if isinstance(event, EngineOutcomes) else []
    grows = any(running.starving for running in before.requests.values())
    grows = grows or any(isinstance(outcome, Wants) for outcome in outcomes)
    waiting = [*before.queue, *after.queue]  # one that was just parked may have others parked for it
    highest = max((running.request.priority for running in waiting), default=LOWEST)
    if isinstance(event, Submit):
        highest = max(highest, event.request.priority)
    for running in after.requests.values():
        earlier = before.requests.get(running.request.id)
        if running.stage != "parking" or earlier is None or earlier.stage == "parking" or grows:
            continue
        if running.request.priority >= highest:
            assert turn_is_over(before, earlier, now), "parked for an equal before its turn is over"
            assert any(one.parks for one in before.queue), "parked for one that was never started"
