"""Laws of the queue, of turns and of answers, for each step of a machine, whatever the event."""

from __future__ import annotations

from erllama_py.engine.jobs import Wants
from erllama_py.scheduler.messages import Complete, EngineOutcomes, Message, Submit
from erllama_py.scheduler.preempt import turn_is_over
from erllama_py.scheduler.stages import Parking, Placed, Working, is_leaving, queue_rank
from erllama_py.scheduler.state import State
from helpers.fake_engine import reply_to
from helpers.stages import queued, requests

LOWEST = -1 << 30


def check_turns(before: State, after: State) -> None:
    """No waiting request that could begin is overtaken."""
    waited = {one.core.request.id: one for one in queued(before)}
    begun = [waited[request_id] for request_id in after.placed if request_id in waited]
    for one in queued(after):
        mine, request_id = one.core.request.session, one.core.request.id
        turns = {r.core.request.id for r in requests(before).values() if mine and r.core.request.session == mine}
        copied = any(mine and copy.session == mine for copy in after.copies.values())
        if request_id in waited and not (is_leaving(one) or copied or request_id > min(turns, default=request_id)):
            assert all(queue_rank(other) < queue_rank(one) for other in begun)


def check_parks(before: State, after: State, event: Message, now: float) -> None:
    """No request is parked but for one that grows, for a higher priority, or after its turn."""
    outcomes = event.batch if isinstance(event, EngineOutcomes) else []
    grows = any(isinstance(one, Working) and one.starving for one in before.placed.values())
    grows = grows or any(isinstance(outcome, Wants) for outcome in outcomes)
    waiting = [*queued(before), *queued(after)]  # one that was just parked may have others parked for it
    highest = max((one.core.request.priority for one in waiting), default=LOWEST)
    if isinstance(event, Submit):
        highest = max(highest, event.request.priority)
    for request_id, one in after.placed.items():
        earlier: Placed | None = before.placed.get(request_id)
        if not isinstance(one, Parking) or earlier is None or isinstance(earlier, Parking) or grows:
            continue
        if one.core.request.priority >= highest:
            assert turn_is_over(before, earlier, now), "parked for an equal before its turn is over"
            assert before.parked, "parked for one that was never started"


def check_answer(answer: Complete, *, was_cancelled: bool, stopping: bool) -> None:
    """A request gets what it is due, all of it unless it was ended."""
    finished, due = answer.finished, reply_to(answer.request.tokens, answer.request.max_new_tokens)
    if finished is None:
        assert was_cancelled
    elif finished.reason == "cancelled":
        assert was_cancelled or stopping
        assert finished.token_ids == due[: len(finished.token_ids)]
    else:
        assert finished.token_ids == due
