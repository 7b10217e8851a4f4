"""Turns of sessions: one at a time, each in its session's sequence, which is held for it for a while."""

from __future__ import annotations

from helpers.requests import finished, jobs, run
from helpers.rows import IDENTITY
from helpers.stages import at, queued_ids
from helpers.states import A, B, C, D, asked, begun, kept, looked_up, state_with

from erllama_py.cache.keys import Identity, prefix_keys
from erllama_py.engine.jobs import Capture, Drop, Park, Parked, Wants
from erllama_py.results import CacheHit
from erllama_py.scheduler.idle import MOST_LEFT, evict, next_silent
from erllama_py.scheduler.messages import CancelRequest, EndSession, Look, LookUp, Refuse, SendJob
from erllama_py.scheduler.stages import Looking, Working
from erllama_py.scheduler.state import State, with_slot

STRANGER = Identity(b"o" * 32, 4, b"c" * 32)


def test_a_session_has_one_turn_at_a_time() -> None:
    """A second one is refused, or waits if it says so; others pass it by."""
    state = begun(state_with(), asked(1, A, session_id="s"))
    refused = asked(2, B, session_id="s")
    assert run(state, refused) == (state, [Refuse(refused.request)])
    state, effects = run(state, asked(3, B, session_id="s", session_wait=True))
    assert (effects, queued_ids(state)) == ([], [3])
    state, effects = run(state, asked(4, C, session_id="t"))
    assert looked_up(effects) == [4]
    _, effects = run(state, finished(1, [], held=60, captured_to=60))
    assert looked_up(effects) == [3]


def test_the_next_turn_goes_on_in_its_own_sequence() -> None:
    """That is said of it."""
    state = begun(state_with(kept(1, A, session_id="s")), asked(1, [*A, 7], session_id="s"))
    assert (at(state, 1, Working).allocation.seq_id, state.last_hit) == (1, CacheHit("sticky", 60))
    state, _ = run(state, finished(1, [8], held=61, captured_to=61), now=9.0)
    assert (state.slots[1].session_id, state.slots[1].used_at) == ("s", 9.0)


def test_a_turn_that_diverges_from_its_session_releases_its_sequence() -> None:
    """It is the first to go then: the conversation went another way."""
    slots = (kept(0, B, used_at=1.0), kept(1, A, session_id="s", used_at=5.0), kept(2, C, used_at=2.0))
    state, effects = run(state_with(*slots, n_cells=1000), asked(1, [1, 2, 3], session_id="s"))
    assert at(state, 1, Looking).allocation.seq_id == 1
    assert jobs(effects) == [Drop(1)]


def test_a_turn_that_is_cancelled_before_it_begins_leaves_its_session_as_it_was() -> None:
    """What was not saved of it is still known to be not."""
    before = kept(1, A, session_id="s", captured_to=20)
    state, _ = run(state_with(before), asked(1, [*A, 7], session_id="s"), CancelRequest(1))
    (after,) = state.idle
    assert (after.length, after.captured_to, after.session_id) == (60, 20, "s")


def test_a_silent_session_is_forgotten_in_time() -> None:
    """Saved where it is not; others are not, and the next look is when the next one will have been silent."""
    slots = (
        kept(0, A, session_id="s", used_at=1.0, captured_to=0), kept(1, B, session_id="t", used_at=2.0), kept(2, C),
    )  # fmt: skip
    state = state_with(*slots, idle_seconds=10.0)
    assert next_silent(state) == 11.0
    assert run(state, Look(), now=10.9) == (state, [])
    state, effects = run(state, Look(), now=11.0)
    assert [type(job) for job in jobs(effects)] == [Capture, Drop]
    assert [slot.length for slot in state.slots] == [0, 60, 60]
    assert next_silent(state) == 12.0
    state, _ = run(state, Look(), now=12.0)
    assert (state.slots[2].length, next_silent(state)) == (60, None)


def test_a_session_that_ends_holds_nothing() -> None:
    """At once, or when the turn at work is over; an unknown one is nothing."""
    state = begun(state_with(kept(1, B, session_id="t")), asked(1, A, session_id="s"))
    assert run(state, EndSession((IDENTITY, "x"))) == (state, [])
    state, _ = run(
        state, EndSession((IDENTITY, "t")), EndSession((IDENTITY, "s")), finished(1, [], held=60, captured_to=60)
    )
    assert [slot.session_id for slot in state.slots] == [None, None, None]
    assert [slot.length for slot in state.slots] == [60, 60, 0]


# --- tenants ------------------------------------------------------------------------------------------------------


def test_another_tenant_with_the_same_id_has_a_session_of_its_own() -> None:
    """It is not busy when that one is, does not let go of its sequence, and goes on in none of its cells."""
    state = begun(state_with(kept(2, B, session_id="t")), asked(1, A, session_id="s"))
    state, effects = run(state, asked(2, [1, 2], session_id="s", identity=STRANGER))
    assert looked_up(effects) == [2]
    state, _ = run(state_with(kept(2, B, session_id="t")), asked(3, [*B, 7], session_id="t", identity=STRANGER))
    assert (state.slots[2].session_id, state.slots[2].length) == ("t", 60)
    assert not at(state, 3, Looking).allocation.sticky


def test_another_tenant_ends_no_session_of_the_same_id() -> None:
    """Neither an idle one, nor one at work, nor the key of one that was evicted."""
    gone = kept(1, C, session_id="u")
    state = begun(state_with(kept(2, B, session_id="t")), asked(1, A, session_id="s"))
    state, _ = evict(with_slot(state, gone), gone)
    assert list(state.left) == [(IDENTITY, "u")]
    for session_id in ("s", "t", "u"):
        assert run(state, EndSession((STRANGER, session_id))) == (state, [])


def test_an_evicted_session_is_found_by_its_own_tenant_alone() -> None:
    """The key of the last row goes with whose session it was."""
    state, _ = evict(state_with(kept(0, A, session_id="s")), kept(0, A, session_id="s"))
    (key,) = prefix_keys(IDENTITY, kept(0, A).packed, (60,))
    for identity, expected in ((IDENTITY, key), (STRANGER, None)):
        _, effects = run(state, asked(1, [*A, 7], session_id="s", identity=identity))
        assert [effect.request.parent_key for effect in effects if isinstance(effect, LookUp)] == [expected]


# --- whose turn it is ---------------------------------------------------------------------------------------------


def test_a_turn_that_has_begun_comes_before_one_with_a_lower_id() -> None:
    """Ids are drawn before a long prompt is hashed, so a short one may be here first."""
    state = begun(state_with(), asked(2, A, session_id="s", session_wait=True))
    state, effects = run(state, asked(1, B, session_id="s", session_wait=True))
    assert effects == []
    state, effects = run(state, asked(3, C, session_id="s", session_wait=True))
    assert effects == []
    _, effects = run(state, finished(2, [], held=60, captured_to=60))
    assert looked_up(effects) == [1]


def parked_turn() -> State:
    """A turn of `s` with the id 5 was parked for request 1, which goes on."""
    state = begun(state_with(n_cells=132), asked(1, A), asked(5, B, session_id="s"))
    state, effects = run(state, Wants(1, 64), Wants(1, 68))
    assert effects == [SendJob(Park(5))]
    return run(state, Parked(request_id=5, held=60, token_ids=[7]))[0]


def test_a_turn_that_was_parked_comes_before_those_that_wait() -> None:
    """It has begun, whatever the id of the others."""
    state, _ = run(parked_turn(), asked(2, C, session_id="s", session_wait=True))
    _, effects = run(state, finished(1, [], held=60, captured_to=60))
    assert looked_up(effects) == [5]


def test_after_a_cancelled_turn_the_next_one_waits_and_is_not_refused() -> None:
    """The engine is about to end it, and the next one waits for that; a third is one too many."""
    state = begun(state_with(), asked(1, A, session_id="s"))
    state, _ = run(state, CancelRequest(1), asked(2, B, session_id="s"))
    assert queued_ids(state) == [2]
    third = asked(3, B, session_id="s")
    assert run(state, third) == (state, [Refuse(third.request)])
    _, effects = run(state, finished(1, [], held=60, captured_to=60, reason="cancelled"))
    assert looked_up(effects) == [2]


def test_a_request_that_could_begin_is_never_one_too_many() -> None:
    """A turn that waits for its session takes a place in the queue, and no sequence."""
    state = begun(state_with(max_pending=1), asked(1, A, session_id="s"))
    state, _ = run(state, asked(2, B, session_id="s", session_wait=True))
    fourth = asked(4, D, session_id="s", session_wait=True)
    assert run(state, fourth) == (state, [Refuse(fourth.request, 1)])
    state, effects = run(state, asked(3, C))
    assert looked_up(effects) == [3]
    state, _ = run(state, asked(5, D))
    sixth = asked(6, D, priority=9)
    assert run(state, sixth) == (state, [Refuse(sixth.request, 1)])


def test_the_end_of_a_session_frees_its_parked_turn_too() -> None:
    """It goes on as a request like any other: another turn need not wait for it, and nothing is held for it."""
    state, _ = run(parked_turn(), EndSession((IDENTITY, "s")), finished(1, [], held=60, captured_to=60))
    assert (at(state, 5, Looking).allocation.seq_id, state.slots[1].session_id) == (1, None)
    _, effects = run(state, asked(6, C[:20], session_id="s"))
    assert looked_up(effects) == [6]


def test_an_ended_session_holds_nothing() -> None:
    """The key of what was saved of it goes, those of others stay."""
    slots = (kept(0, A, session_id="s"), kept(1, B, session_id="t"))
    state = state_with(*slots)
    for slot in slots:
        state, _ = evict(state, slot)
    state, _ = run(state, EndSession((IDENTITY, "s")))
    assert list(state.left) == [(IDENTITY, "t")]


def test_so_many_sessions_that_were_evicted_are_remembered() -> None:
    """The latest ones."""
    state = state_with()
    for number in range(MOST_LEFT + 5):
        state, _ = evict(state, kept(0, A, session_id=str(number)))
    assert [session_id for _, session_id in state.left] == [str(number) for number in range(5, MOST_LEFT + 5)]
