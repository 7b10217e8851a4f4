"""The machine itself, a pure function `(state, event, now) → (state, effects)`: what each event does to its request.

What that makes possible for others is `schedule`'s business, and what the engine reports is in `outcomes`. See the
package for the whole.
"""

from __future__ import annotations

import math
from typing import assert_never

from erllama_py.cache.messages import SaveLost
from erllama_py.engine.jobs import Cancel, EndThinking, Fault
from erllama_py.scheduler import messages
from erllama_py.scheduler.idle import buffers_back, end_session, evict_silent, next_silent, save_lost, save_next
from erllama_py.scheduler.messages import Effect, Message
from erllama_py.scheduler.outcomes import engine_outcome
from erllama_py.scheduler.preempt import next_turn
from erllama_py.scheduler.scheduling import schedule, then_schedule
from erllama_py.scheduler.sharing import leader_gone
from erllama_py.scheduler.stages import (
    Following,
    Looking,
    Parked,
    Parking,
    Restoring,
    Waiting,
    Working,
    is_leaving,
)
from erllama_py.scheduler.starting import cancelled_outline, core_of, found, leave_start, outline, row_read
from erllama_py.scheduler.state import State, changed, with_request, without_request


def transition(state: State, event: Message, now: float) -> tuple[State, list[Effect]]:
    """What `event` changes and what is to be done about it. `now` is the monotonic clock's, in seconds."""
    match event:
        case messages.EngineOutcomes(batch):
            effects: list[Effect] = []
            for outcome in batch:
                state, more = engine_outcome(state, outcome, now)
                effects += more
            return state, effects
        case messages.Submit():
            return _submit(state, event, now)
        case messages.CancelRequest(request_id):
            return _cancel(state, request_id, now)
        case messages.EndThinking(request_id):
            return _end_thinking(state, request_id)
        case messages.Found():
            return then_schedule(found(state, event, now), now)
        case messages.RowRead():
            return then_schedule(row_read(state, event, now), now)
        case messages.SaveAll():
            return then_schedule(_save_all(state, event, now), now)
        case messages.LeaveSaveAll(ticket):
            return changed(state, save_alls=tuple(one for one in state.save_alls if one.ticket != ticket)), []
        case messages.BuffersBack():
            return then_schedule(buffers_back(state), now)
        case SaveLost():
            return then_schedule(save_lost(state, event), now)
        case messages.EndSession(session):
            return end_session(state, session)
        case messages.Look():
            return then_schedule(_look(state, now), now)
        case messages.InjectFault("actor"):
            return state, [messages.Crash(None)]
        case messages.InjectFault("thread"):
            return state, [messages.SendJob(Fault("thread"))]
        case messages.InjectFault("assertion"):
            return state, [messages.SendJob(Fault("assertion"))]
        case messages.InjectFault():
            return state, [messages.SendJob(Fault("decode"))]
        case _ as never:
            assert_never(never)


def next_look(state: State, now: float) -> float | None:
    """When a `Look` is due: a session has been silent, or a request without room, for too long, or a turn is over."""
    times = (next_silent(state), next_turn(state, now), state.queue.next_end())
    return min((when for when in times if when is not None), default=None)


def _submit(state: State, event: messages.Submit, now: float) -> tuple[State, list[Effect]]:
    request, mine = event.request, event.request.session
    again = request.again or request.drawn is not None
    if mine is not None and not (request.session_wait or again):
        # One that was cancelled is as good as over, and its caller cannot wait for the rest of it.
        placed = (one for one in (*state.placed.values(), *state.parked.values()) if one.core.request.session == mine)
        if any(not is_leaving(one) for one in placed) or any(state.queue.of_session(mine)):
            return state, [messages.Refuse(request)]
    waiting, pending = Waiting(core_of(request, event.feed is not None, state.limits)), state.pending
    after, effects = schedule(with_request(state, waiting), now)
    # A request waiting for its own session may leave sequences free, so this one is too many only if it, or one that it
    # displaces, has to queue.
    if again or after.pending <= max(pending, state.limits.max_pending):
        return after, effects
    if not request.queue_wait:
        return state, [messages.Refuse(request, pending)]
    return schedule(with_request(state, changed(waiting, room_by=now + request.queue_wait)), now)


def _look(state: State, now: float) -> tuple[State, list[Effect]]:
    """End what has expired: waits for room in the queue, and sequences held for silent sessions."""
    effects: list[Effect] = []
    while (one := state.queue.first_end()) is not None and one.room_by is not None and one.room_by <= now:
        state = without_request(state, one.core.request.id)
        effects.append(messages.Refuse(one.core.request, state.pending))
    state, more = evict_silent(state, now)
    return state, [*effects, *more]


def _cancel(state: State, request_id: int, now: float) -> tuple[State, list[Effect]]:
    one = state.find(request_id)
    if one is None or is_leaving(one):
        return state, []
    effects: list[Effect] = []
    starting = one if isinstance(one, Following | Looking | Restoring) else None
    if starting is not None:
        state, effects = leave_start(state, starting, now)
        state, more = leader_gone(state, starting, now)
        effects += more
    if one.begun is not None:
        # What the engine has begun it also ends: it knows the text so far.
        if isinstance(one, Working | Parking):
            state = with_request(state, _left(one))
        else:
            state = with_request(state, Parked(one.core, changed(one.begun, leaving=True)))
        effects.append(messages.SendJob(Cancel(request_id)))
    else:
        core, state = one.core, without_request(state, request_id)
        effects.append(
            messages.Complete(core.request, cancelled_outline(core, starting, now), None, core.started_at, None)
        )
    return then_schedule((state, effects), now)


def _end_thinking(state: State, request_id: int) -> tuple[State, list[Effect]]:
    one = state.find(request_id)
    if one is None or is_leaving(one) or (markers := one.core.request.markers) is None:
        return state, []
    if one.begun is not None:  # only the engine knows what it is in
        return state, [messages.SendJob(EndThinking(request_id))]
    request = changed(one.core.request, markers=changed(markers, ended=markers.begins == "thinking"))
    if (drawn := request.drawn) is not None:  # again only the engine knows it
        request = changed(one.core.request, drawn=changed(drawn, end_thinking=True))
    return with_request(state, changed(one, core=changed(one.core, request=request))), []


def cut_short(state: State, request_id: int, now: float) -> messages.Complete | None:
    """The answer to a request that was cancelled, but for what the engine had of it; None where it is over."""
    one = state.find(request_id)
    if one is None:
        return None
    starting = one if isinstance(one, Following | Looking | Restoring) else None
    said = cancelled_outline(one.core, starting, now) if one.begun is None else outline(one.begun)
    return messages.Complete(one.core.request, said, None, one.core.started_at, None)


def earlier(state: State, request_id: int) -> messages.Earlier | None:
    """How a request began, for its next life: its engine has ended. None where it had not begun, in no life."""
    one = state.find(request_id)
    if one is None:
        return None
    if one.begun is None:
        return one.core.request.earlier
    return messages.Earlier(outline(one.begun), one.core.started_at, one.begun.captured_to, one.begun.found)


def _save_all(state: State, event: messages.SaveAll, now: float) -> tuple[State, list[Effect]]:
    """Save and forget what is idle; `"shutdown"` ends the requests at work, so that this is soon everything."""
    stopping = state.stopping or event.reason == "shutdown"
    until = math.inf if stopping else now
    state = changed(state, save_alls=(*state.save_alls, event), save_until=until, stopping=stopping)
    effects: list[Effect] = []
    for one in state.placed.values() if stopping else ():
        if isinstance(one, Working | Parking):
            state = with_request(state, _left(one))
            effects.append(messages.SendJob(Cancel(one.core.request.id)))
        else:
            state, more = leave_start(state, one, now)
            effects += more
    state, more = save_next(state)
    return state, [*effects, *more]


def _left(one: Working | Parking) -> Working | Parking:
    """A request that was cancelled at work."""
    one = changed(one, begun=changed(one.begun, leaving=True))
    return changed(one, starving=False) if isinstance(one, Working) else one
