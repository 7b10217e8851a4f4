"""Requests that wait for room in a full queue: when they get it, when they are refused, and that order is kept."""

from __future__ import annotations

import math

import pytest
from helpers.requests import finished, found, run
from helpers.stages import queued_ids, requests
from helpers.states import A, B, C, D, asked, begun, looked_up, state_with

from erllama_py.engine.jobs import Parked
from erllama_py.scheduler.machine import next_look
from erllama_py.scheduler.messages import CancelRequest, Complete, Look, Refuse
from erllama_py.scheduler.state import State


def full(**fields: int) -> State:
    """One at work, and as many that wait as may."""
    state = begun(state_with(n_seq_max=1, max_pending=2, **fields), asked(1, A))
    state, _ = run(state, asked(2, B), asked(3, C))
    return state


def outside(state: State) -> list[int]:
    return list(state.queue.outside)


def test_one_too_many_is_refused_at_once_unless_it_waits() -> None:
    """It is refused when its time is over, and a look is due then."""
    refused = asked(4, D)
    assert run(full(), refused) == (full(), [Refuse(refused.request, 2)])
    waits = asked(4, D, queue_wait=5.0)
    state, effects = run(full(), waits, now=10.0)
    assert (effects, outside(state), queued_ids(state)) == ([], [4], [2, 3, 4])
    assert next_look(state, 10.0) == 15.0
    assert run(state, Look(), now=14.9) == (state, [])
    state, effects = run(state, Look(), now=15.0)
    assert (effects, queued_ids(state), next_look(state, 15.0)) == ([Refuse(waits.request, 2)], [2, 3], None)


def test_room_is_given_in_order_and_is_for_good() -> None:
    """Those with room are not refused any more, and the next ones have waited in vain only at their own time."""
    state, _ = run(full(), asked(4, D, queue_wait=9.0), asked(5, D, queue_wait=5.0), asked(6, D, queue_wait=7.0))
    assert outside(state) == [4, 5, 6]
    state, effects = run(state, finished(1, [], held=60))
    assert (looked_up(effects), outside(state)) == ([2], [5, 6])
    state, effects = run(state, Look(), now=100.0)
    assert [effect.request.id for effect in effects if isinstance(effect, Refuse)] == [5, 6]
    assert queued_ids(state) == [3, 4]


def test_a_higher_priority_gets_room_first() -> None:
    """It is also served first: a queue has one order."""
    state, _ = run(full(), asked(4, D, queue_wait=9.0), asked(5, D, queue_wait=9.0, priority=-1))
    state, _ = run(state, asked(6, D, queue_wait=9.0))
    assert outside(state) == [4, 6, 5]
    state, _ = run(state, CancelRequest(2))
    assert outside(state) == [6, 5]


def test_one_without_patience_does_not_overtake_those_that_wait() -> None:
    """There is no room as long as others wait for it."""
    state, _ = run(full(), asked(4, D, queue_wait=math.inf))
    late = asked(5, D)
    assert run(state, late)[1] == [Refuse(late.request, 3)]


def test_a_request_that_waits_without_limit_needs_no_look() -> None:
    """It is woken by what becomes free."""
    state, _ = run(full(), asked(4, D, queue_wait=math.inf))
    assert next_look(state, 1.0) is None
    assert run(state, Look(), now=1e9)[1] == []
    for request_id in (1, 2, 3, 4):
        state, effects = run(state, finished(request_id, [], held=60))
        if request_id < 4:
            assert looked_up(effects) == [request_id + 1]
            state, _ = run(state, found(request_id + 1))
    assert requests(state) == {}


def test_it_is_cancelled_while_it_waits_for_room() -> None:
    """It is answered, and nothing of it is left."""
    state, effects = run(full(), asked(4, D, queue_wait=5.0), CancelRequest(4))
    assert [type(effect) for effect in effects] == [Complete]
    assert state == full()
    assert next_look(state, 1.0) is None


def test_a_turn_of_a_session_that_waits_for_room_is_under_way() -> None:
    """Another one is refused, or comes after it."""
    state, _ = run(full(), asked(4, D, queue_wait=math.inf, session_id="s"))
    busy = asked(5, D, session_id="s")
    assert run(state, busy)[1] == [Refuse(busy.request)]
    state, _ = run(state, asked(6, D, session_id="s", session_wait=True, queue_wait=math.inf, priority=1))
    state, _ = run(state, CancelRequest(2), CancelRequest(3))
    _, effects = run(state, finished(1, [], held=60))
    assert looked_up(effects) == [4]


def test_one_that_is_served_at_once_has_not_waited() -> None:
    """Though the queue is full: those in it wait for a session."""
    state = begun(state_with(n_seq_max=2, max_pending=1), asked(1, A, session_id="s"))
    state, _ = run(state, asked(2, B, session_id="s", session_wait=True))
    state, effects = run(state, asked(3, C, queue_wait=1.0))
    assert (looked_up(effects), outside(state)) == ([3], [])


@pytest.mark.parametrize("queue_wait", [0.0, 1.0])
def test_one_that_would_displace_another_into_a_full_queue(queue_wait: float) -> None:
    """Is refused without patience; with it the other is parked, and waits with the rest."""
    state, effects = run(full(), high := asked(4, D, priority=1, queue_wait=queue_wait))
    if not queue_wait:
        assert effects == [Refuse(high.request, 2)]
        return
    state, effects = run(state, Parked(request_id=1, held=60, token_ids=[]))
    assert (looked_up(effects), queued_ids(state), outside(state)) == ([4], [1, 2, 3], [])
