"""Requests that begin as another does: they share its cells, or its rows, and go on when it is gone."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.requests import (
    FAILURE,
    PLAN,
    captured,
    finished,
    found,
    generate_of,
    hit_of,
    jobs,
    restored,
    row_read,
    rows_of,
    run,
)
from helpers.stages import at, stage
from helpers.states import A, B, C, D, asked, begun, kept, looked_up, state_with

from erllama_py.cache.keys import prefix_keys
from erllama_py.engine.backend import MemoryKind
from erllama_py.engine.jobs import Drop, Failed, Fork, Forked, Generate, Outcome, Park, Parked, Prefilled
from erllama_py.results import CacheHit
from erllama_py.scheduler.cells import count
from erllama_py.scheduler.messages import CancelRequest, Complete, EndLookUp, LookUp, Message, ReadRows, SendJob
from erllama_py.scheduler.stages import Following, Looking, Share, leader_of
from erllama_py.scheduler.starting import SAVE_WAIT
from erllama_py.scheduler.state import State, changed

SECOND, THIRD = [*A[:40], *B[:20]], [*A[:40], *C[:20]]  # both begin as A does
FORK_2 = Fork(request_id=2, source=0, seq_id=1, length=40)
FORK_3 = Fork(request_id=3, source=0, seq_id=2, length=40)
ROOM = 1000


def cells(state: State) -> int:
    return count(slot.pieces for slot in state.slots)


# --- shared cells -------------------------------------------------------------------------------------------------


def test_a_prompt_that_begins_like_one_at_work_shares_its_cells() -> None:
    """The engine is asked at once, and does it when the beginning is computed; the cache is asked meanwhile."""
    state = begun(state_with(), asked(1, A))
    state, effects = run(state, asked(2, SECOND))
    assert effects == [SendJob(FORK_2), LookUp(asked(2, SECOND).request)]
    assert cells(state) == 64 + 24
    for first, then in ((found(2), Forked(2, 40)), (Forked(2, 40), found(2))):
        after, effects = run(state, first)
        assert jobs(effects) == []
        after, effects = run(after, then)
        assert generate_of(effects).keep == 40
        assert after.last_hit == CacheHit("live", 40)
        assert stage(after, 2) == "working"


def test_a_prompt_that_begins_like_one_that_is_not_yet_at_work_shares_its_cells_later() -> None:
    """The engine is asked as soon as it has begun with that one."""
    state, effects = run(state_with(), asked(1, A), asked(2, SECOND))
    assert jobs(effects) == []
    state, effects = run(state, asked(3, THIRD), found(2), found(1))
    assert [type(job) for job in jobs(effects)] == [Generate, Fork, Fork]
    assert jobs(effects)[1:] == [FORK_2, FORK_3]


def test_an_idle_sequence_is_shared_at_once() -> None:
    """Nothing has to be waited for but the engine's answer."""
    state, effects = run(state_with(kept(0, A)), asked(2, SECOND))
    assert effects[0] == SendJob(FORK_2)
    _, effects = run(state, Forked(2, 40), found(2))
    assert generate_of(effects).keep == 40


def test_rows_go_after_shared_cells() -> None:
    """Those that are there already are not read."""
    rows = rows_of(SECOND, 20, 40, 60)
    state = begun(state_with(), asked(1, A))
    state, effects = run(state, asked(2, SECOND), found(2, hit_of(SECOND, 20, 40, 60)), Forked(2, 40))
    assert effects == [ReadRows(2, rows[2:])]
    _, effects = run(state, row_read(2, rows[2]), restored(2, rows[2]))
    assert generate_of(effects).keep == 59


@pytest.mark.parametrize(("n_cells", "gone"), [(200, []), (160, [1]), (120, [0])])
def test_rows_that_replace_shared_cells_push_out_what_is_kept(n_cells: int, gone: list[int]) -> None:
    """A row begins at 0, so its cells are no longer shared."""
    prompt = [*A[:40], *C[:20], *D[:10]]
    state = state_with(kept(0, A, used_at=2.0), kept(1, B, used_at=1.0), n_cells=n_cells)
    state, _ = run(state, asked(1, prompt), Forked(1, 40))
    assert cells(state) <= n_cells
    state, effects = run(state, found(1, hit_of(prompt, 60)))
    assert jobs(effects) == [Drop(seq_id) for seq_id in gone]
    assert effects[-1] == ReadRows(1, rows_of(prompt, 60))
    assert cells(state) <= n_cells


def test_rows_that_find_no_cells_are_computed() -> None:
    """Whoever is at work is not pushed out for them."""
    prompt = [*A[:40], *C[:20], *D[:10]]
    state, _ = run(begun(state_with(n_cells=120), asked(1, A)), asked(2, prompt), Forked(2, 40))
    state, effects = run(state, found(2, hit_of(prompt, 60)))
    assert generate_of(effects).keep == 40
    assert cells(state) <= 120


def test_less_may_be_shared_than_was_hoped_for() -> None:
    """Whoever was to compute it has ended before; the cells in which it is computed again are counted."""
    state = begun(state_with(), asked(1, A))
    state, _ = run(state, asked(2, SECOND), found(2), finished(1, [], held=25, reason="cancelled"))
    assert at(state, 2, Looking).share is not None  # the engine will answer
    state, effects = run(state, Forked(2, 25))
    assert generate_of(effects).keep == 25
    assert cells(state) == 64


def test_what_the_leader_has_saved_is_not_saved_again() -> None:
    """As far as it had come when the beginning was shared."""
    state = begun(state_with(), asked(1, A, plan=PLAN))
    state, _ = run(state, asked(2, SECOND, plan=PLAN), found(2), captured(1, 0, 20))
    _, effects = run(state, Forked(2, 40))
    saves = generate_of(effects).saves
    assert saves is not None
    assert (saves.captured_to, saves.prompt_ends) == (20, (40,))


@pytest.mark.parametrize(("shared", "saved"), [(40, 40), (25, 40)])
def test_what_a_leader_has_saved_is_not_saved_again_when_it_is_over(shared: int, saved: int) -> None:
    """Its end may be known before the engine has answered the follower's `Fork`."""
    state = begun(state_with(), asked(1, A, plan=PLAN))
    state, _ = run(state, asked(2, SECOND, plan=PLAN), found(2), captured(1, 0, 40), captured(1, 40, 60))
    state, _ = run(state, finished(1, [], held=60, captured_to=60))
    _, effects = run(state, Forked(2, shared))
    saves = generate_of(effects).saves
    assert saves is not None
    assert (saves.captured_to, saves.prompt_ends) == (saved, ())


def test_a_place_where_the_leader_has_ended_no_row_is_not_saved_for_others() -> None:
    """Its row there found no buffer, and the next one goes beyond: what extends that place would extend nothing."""
    state = begun(state_with(), asked(1, A, plan=PLAN))
    state, _ = run(state, asked(2, SECOND, plan=PLAN), found(2), captured(1, 0, 20), captured(1, 20, 60))
    _, effects = run(state, Forked(2, 40))
    saves = generate_of(effects).saves
    assert saves is not None
    assert (saves.captured_to, saves.prompt_ends) == (20, (40,))


# --- the leader is gone -------------------------------------------------------------------------------------------


def test_of_those_that_lose_their_leader_the_first_goes_on_and_the_others_follow_it() -> None:
    """What none has computed is still computed once."""
    state, _ = run(state_with(n_cells=ROOM), asked(1, A), asked(2, SECOND), asked(3, THIRD), found(2), found(3))
    state, effects = run(state, CancelRequest(1))
    assert [job for job in jobs(effects) if not isinstance(job, Generate)] == [
        Drop(0), Fork(request_id=3, source=1, seq_id=2, length=40),
    ]  # fmt: skip
    assert (generate_of(effects).request_id, generate_of(effects).keep) == (2, 0)
    assert leader_of(at(state, 3, Looking)) == 2
    _, effects = run(state, Forked(3, 40))
    assert generate_of(effects).keep == 40


def test_the_next_leader_may_itself_still_be_looked_up() -> None:
    """Then the engine is asked when that one begins."""
    state, _ = run(state_with(n_cells=ROOM), asked(1, A), asked(2, SECOND), asked(3, THIRD), found(3))
    state, effects = run(state, CancelRequest(1))
    assert jobs(effects) == [Drop(0)]
    _, effects = run(state, found(2))
    assert jobs(effects)[1:] == [Fork(request_id=3, source=1, seq_id=2, length=40)]


@pytest.mark.parametrize("over", [finished(1, [], held=60, captured_to=60), Failed(1, FAILURE)])
@pytest.mark.parametrize("parking", [False, True])
def test_of_a_leader_at_work_the_engine_reports_what_was_shared(over: Any, parking: bool) -> None:
    """It was asked, so its answer is waited for, though the leader was to be parked and has ended before that."""
    state, _ = run(begun(state_with(n_cells=ROOM), asked(1, A)), Prefilled(1, 60, 60))
    state, _ = run(state, asked(2, SECOND, priority=1), asked(3, THIRD, priority=1), found(2), found(3))
    if parking:
        state, effects = run(state, asked(4, D, priority=1))
        assert effects == [SendJob(Park(1))]
    state, effects = run(state, over)
    assert not any(isinstance(job, Generate | Fork) for job in jobs(effects))
    assert [at(state, request_id, Looking).share for request_id in (2, 3)] == [Share(1, 40)] * 2
    for request_id in (2, 3):
        state, effects = run(state, Forked(request_id, 40))
        assert generate_of(effects).keep == 40


def test_a_follower_of_a_leader_that_is_parked_gets_what_it_has() -> None:
    """The engine reports it before the leader is out; what is missing is computed by the first of them."""
    state, _ = run(begun(state_with(n_cells=ROOM), asked(1, A)), Prefilled(1, 60, 60))
    state, _ = run(state, asked(2, SECOND, priority=1), asked(3, THIRD, priority=1), found(2), found(3))
    state, _ = run(state, asked(4, D, priority=1))
    assert stage(state, 1) == "parking"
    state, effects = run(state, Forked(2, 20))
    assert generate_of(effects).keep == 20
    state, effects = run(state, Forked(3, 20))
    assert jobs(effects) == [Drop(2), Fork(request_id=3, source=1, seq_id=2, length=40)]
    _, effects = run(state, Parked(request_id=1, held=20, token_ids=[]))
    assert jobs(effects) == []


def test_a_higher_priority_does_not_wait_for_the_prompt_of_a_lower_one() -> None:
    """That may be read after all others; once it is in, it is shared."""
    state = begun(state_with(n_cells=ROOM), asked(1, A))
    for above, shares in ((asked(2, SECOND), True), (asked(2, SECOND, priority=1), False)):
        assert (FORK_2 in jobs(run(state, above)[1])) == shares
    state, effects = run(state, Prefilled(1, 60, 60), asked(2, SECOND, priority=1))
    assert FORK_2 in jobs(effects)


def test_a_follower_is_cancelled_without_its_leader() -> None:
    """Its sequence is emptied, and what was to be shared with it is not."""
    state = begun(state_with(), asked(1, A))
    state, effects = run(state, asked(2, SECOND), CancelRequest(2))
    assert [type(effect) for effect in effects] == [SendJob, EndLookUp, Complete]
    assert jobs(effects) == [Drop(1)]
    assert run(state, Forked(2, 40)) == (state, [])
    assert cells(state) == 64


# --- shared rows --------------------------------------------------------------------------------------------------


def following(memory: MemoryKind) -> State:
    """Two that follow one which saves what all three begin with, at 20 and at 40."""
    state = begun(state_with(memory=memory, n_cells=ROOM), asked(1, A, plan=PLAN))
    state, effects = run(state, asked(2, SECOND))
    assert effects == []
    return run(state, asked(3, [*A[:30], *B]))[0]


@pytest.mark.parametrize("memory", ["window", "recurrent", "hybrid"])
def test_rows_are_looked_up_when_they_are_being_saved(memory: MemoryKind) -> None:
    """Up to where both begin alike; the look-up waits for the save, by its key."""
    state = following(memory)
    assert [stage(state, request_id) for request_id in (2, 3)] == ["following", "following"]
    state, effects = run(state, captured(1, 0, 20))
    assert looked_up(effects) == [3]
    state, effects = run(state, captured(1, 20, 40))
    (asked_for,) = (effect.request for effect in effects if isinstance(effect, LookUp))
    (key,) = prefix_keys(asked_for.identity, asked_for.packed, (40,))
    assert (asked_for.id, asked_for.parent_key, asked_for.wait_seconds) == (2, key, SAVE_WAIT)
    state, effects = run(state, found(2, hit_of(SECOND, 20, 40)))
    assert effects == [ReadRows(2, rows_of(SECOND, 20, 40))]


@pytest.mark.parametrize("over", [finished(1, [], held=10, reason="cancelled"), Failed(1, FAILURE)])
def test_when_the_leader_is_gone_what_it_has_saved_is_looked_up(over: Any) -> None:
    """Each begins with what there is."""
    state, effects = run(following("recurrent"), over)
    assert looked_up(effects) == [2, 3]
    _, effects = run(state, found(2))
    assert generate_of(effects).keep == 0


@pytest.mark.parametrize("memory", ["window", "recurrent", "hybrid"])
def test_when_the_leader_is_gone_one_of_its_followers_is_the_next(memory: MemoryKind) -> None:
    """What is not saved yet is computed by it alone; the others wait for its rows."""
    state = begun(state_with(memory=memory, n_cells=ROOM), asked(1, A, plan=PLAN))
    state, _ = run(state, asked(2, SECOND, plan=PLAN), asked(3, THIRD, plan=PLAN))
    state, effects = run(state, finished(1, [], held=10, reason="cancelled"))
    assert looked_up(effects) == [2]
    assert at(state, 3, Following).leader == 2
    state, _ = run(state, found(2))
    _, effects = run(state, captured(2, 0, 40))
    assert looked_up(effects) == [3]


@pytest.mark.parametrize("memory", ["window", "recurrent", "hybrid"])
def test_rows_that_the_leader_finds_saved_are_waited_for_no_longer(memory: MemoryKind) -> None:
    """It will not save them again."""
    state, _ = run(
        state_with(memory=memory, n_cells=ROOM), asked(1, A, plan=PLAN), asked(2, SECOND, plan=PLAN),
        found(1, hit_of(A, 20, 40)), *(row_read(1, row) for row in (*rows_of(A, 20, 40), None)),
    )  # fmt: skip
    assert stage(state, 2) == "following"
    _, effects = run(state, restored(1, rows_of(A, 20)[0]), restored(1, rows_of(A, 20, 40)[1]))
    assert generate_of(effects).keep == 40
    assert looked_up(effects) == [2]


def test_a_follower_that_waits_for_rows_is_cancelled_at_once() -> None:
    """There is no look-up to end."""
    _, effects = run(following("recurrent"), CancelRequest(2))
    assert [type(effect) for effect in effects] == [SendJob, Complete]


def test_no_request_waits_for_rows_of_a_prompt_that_is_in() -> None:
    """They are being saved by then, and the cache knows of it."""
    state = begun(state_with(memory="recurrent", n_cells=ROOM), asked(1, A, plan=PLAN))
    _, effects = run(state, Prefilled(1, 60, 60), asked(2, SECOND))
    assert looked_up(effects) == [2]


@pytest.mark.parametrize("memory", ["window", "recurrent", "hybrid"])
@pytest.mark.parametrize("saved", ["now", "already", "by nobody"])
def test_followers_that_waited_for_a_short_beginning_go_on_together(memory: MemoryKind, saved: str) -> None:
    """What they share after it is longer, and only one of them computes that; the others wait for its rows."""
    stem, plan = [*A[:20], *B, *C], changed(PLAN, prompt_ends=(20, 60, 100))
    state, _ = run(state_with(memory=memory, n_seq_max=4, n_cells=ROOM), asked(1, [*A[:20], *D], plan=PLAN))
    if saved == "now":
        state, _ = run(state, found(1))
    state, _ = run(state, *(asked(request_id, [*stem, request_id], plan=plan) for request_id in (2, 3, 4)))
    assert [at(state, request_id, Following).leader_end for request_id in (2, 3, 4)] == [20, 20, 20]
    last: Message | Outcome = captured(1, 0, 20)
    if saved == "already":
        state, _ = run(state, found(1, hit_of([*A[:20], *D], 20)), row_read(1, rows_of(A, 20)[0]))
        last = restored(1, rows_of(A, 20)[0])
    if saved == "by nobody":
        last = found(1, None)
    state, effects = run(state, last)
    assert looked_up(effects) == [2]
    assert stage(state, 2) == "looking"
    followers = [at(state, request_id, Following) for request_id in (3, 4)]
    assert [(follower.leader, follower.leader_end) for follower in followers] == [(2, 100)] * 2
    state, _ = run(state, found(2))
    assert looked_up(run(state, captured(2, 0, 100))[1]) == [3, 4]


@pytest.mark.parametrize("memory", ["window", "recurrent", "hybrid"])
def test_no_request_waits_for_rows_of_one_that_saves_none(memory: MemoryKind) -> None:
    """It began while the cache was away; its followers go on as soon as that is known."""
    state, _ = run(state_with(memory=memory, n_cells=ROOM), asked(1, A, plan=PLAN), asked(2, SECOND))
    assert stage(state, 2) == "following"
    state, effects = run(state, found(1, None))
    assert generate_of(effects).saves is None
    assert looked_up(effects) == [2]
    assert looked_up(run(state, asked(3, SECOND))[1]) == [3]
