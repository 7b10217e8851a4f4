"""Turns of sessions: one at a time, each in its session's sequence, which is held for it for a while."""

from __future__ import annotations

from helpers.requests import finished, jobs, run
from helpers.rows import IDENTITY
from helpers.states import A, B, C, asked, begun, kept, looked_up, state_with

from erllama_py.engine.jobs import Capture, Drop
from erllama_py.model.evicting import next_look
from erllama_py.model.messages import CancelRequest, EndSession, Look, Refuse
from erllama_py.results import CacheHit


def test_a_session_has_one_turn_at_a_time() -> None:
    """A second one is refused, or waits if it says so; others pass it by."""
    state = begun(state_with(), asked(1, A, session_id="s"))
    refused = asked(2, B, session_id="s")
    assert run(state, refused) == (state, [Refuse(refused.request)])
    state, effects = run(state, asked(3, B, session_id="s", session_wait=True))
    assert (effects, [running.request.id for running in state.queue]) == ([], [3])
    state, effects = run(state, asked(4, C, session_id="t"))
    assert looked_up(effects) == [4]
    _, effects = run(state, finished(1, [], held=60, captured_to=60))
    assert looked_up(effects) == [3]


def test_the_next_turn_goes_on_in_its_own_sequence() -> None:
    """That is said of it."""
    state = begun(state_with(kept(1, A, session_id="s")), asked(1, [*A, 7], session_id="s"))
    assert (state.requests[1].seq_id, state.last_hit) == (1, CacheHit("sticky", 60))
    state, _ = run(state, finished(1, [8], held=61, captured_to=61), now=9.0)
    assert (state.slots[1].session_id, state.slots[1].used_at) == ("s", 9.0)


def test_a_turn_that_parts_from_its_session_lets_go_of_its_sequence() -> None:
    """It is the first to go then: the conversation went another way."""
    slots = (kept(0, B, used_at=1.0), kept(1, A, session_id="s", used_at=5.0), kept(2, C, used_at=2.0))
    state, effects = run(state_with(*slots, n_cells=1000), asked(1, [1, 2, 3], session_id="s"))
    assert state.requests[1].seq_id == 1
    assert jobs(effects) == [Drop(1)]


def test_a_turn_that_is_cancelled_before_it_begins_leaves_its_session_as_it_was() -> None:
    """What was not saved of it is still known to be not."""
    before = kept(1, A, session_id="s", captured_to=20)
    state, _ = run(state_with(before), asked(1, [*A, 7], session_id="s"), CancelRequest(1))
    (after,) = state.kept
    assert (after.length, after.captured_to, after.session_id) == (60, 20, "s")


def test_a_silent_session_is_forgotten_in_time() -> None:
    """Saved where it is not; others are not, and the next look is when the next one will have been silent."""
    slots = (
        kept(0, A, session_id="s", used_at=1.0, captured_to=0), kept(1, B, session_id="t", used_at=2.0), kept(2, C),
    )  # fmt: skip
    state = state_with(*slots, idle_seconds=10.0)
    assert next_look(state) == 11.0
    assert run(state, Look(), now=10.9) == (state, [])
    state, effects = run(state, Look(), now=11.0)
    assert [type(job) for job in jobs(effects)] == [Capture, Drop]
    assert [slot.length for slot in state.slots] == [0, 60, 60]
    assert next_look(state) == 12.0
    state, _ = run(state, Look(), now=12.0)
    assert (state.slots[2].length, next_look(state)) == (60, None)


def test_a_session_that_ends_holds_nothing() -> None:
    """At once, or when the turn at work is over; an unknown one is nothing."""
    state = begun(state_with(kept(1, B, session_id="t")), asked(1, A, session_id="s"))
    assert run(state, EndSession((IDENTITY, "x"))) == (state, [])
    state, _ = run(
        state, EndSession((IDENTITY, "t")), EndSession((IDENTITY, "s")), finished(1, [], held=60, captured_to=60)
    )
    assert [slot.session_id for slot in state.slots] == [None, None, None]
    assert [slot.length for slot in state.slots] == [60, 60, 0]
