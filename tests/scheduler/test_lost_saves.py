"""Rows that were copied out and not stored: whoever counts on them saves them again when its sequence is evicted."""

from __future__ import annotations

import msgspec
import pytest
from helpers.requests import PROMPT, captured, finished, found, generate_of, hit_of, jobs, row_read, run, submit
from helpers.rows import IDENTITY
from helpers.stages import at, stage
from helpers.states import A, B, asked, begun, kept, state_with

from erllama_py.cache.keys import Identity, pack_tokens, prefix_keys
from erllama_py.cache.messages import SaveLost
from erllama_py.engine.jobs import Capture, Drop, Parked, Wants
from erllama_py.scheduler.messages import AnswerSaved, Complete, LeaveSaveAll, SaveAll, SaveRow
from erllama_py.scheduler.stages import NOTHING_LOST, Working
from erllama_py.scheduler.stages import Parked as ParkedStage

EVICT, LEFT = SaveAll(90, "evict"), LeaveSaveAll(90)


def lost(request_id: int, tokens: list[int], start: int, end: int, identity: Identity = IDENTITY) -> SaveLost:
    key = prefix_keys(identity, pack_tokens(tokens), (end,))[0]
    return SaveLost(request_id, key, start, end)


def test_an_idle_sequence_is_saved_again_from_where_a_row_was_lost() -> None:
    """By an eviction; nothing happens before."""
    state, effects = run(state_with(kept(0, A)), lost(1, A, 20, 40))
    assert (state.slots[0].captured_to, effects) == (20, [])
    state, _ = run(state, lost(1, A, 40, 60))  # that went on from it
    _, effects = run(state, EVICT)
    assert [(job.start, job.end) for job in jobs(effects)] == [(20, 60)]


@pytest.mark.parametrize(
    "event",
    [
        lost(1, B, 20, 40), lost(1, A, 20, 40, Identity(b"o" * 32, 4, b"c" * 32)), lost(1, [*A, 7], 60, 61),
        lost(1, A, 40, 60),
    ],
    ids=["other tokens", "another tenant's", "beyond its end", "not counted on"],
)  # fmt: skip
def test_rows_of_others_are_nothing(event: SaveLost) -> None:
    """Neither are those that were known to be not saved."""
    state = state_with(kept(0, A, captured_to=40))
    assert run(state, event) == (state, [])


def test_a_request_at_work_remembers_what_was_lost_of_it() -> None:
    """Of its prompt or of its reply; when it is over, that is not saved, nor is its end, and it has no key."""
    working, _ = run(state_with(), submit(1, PROMPT), found(1), captured(1, 0, 20), captured(1, 20, 40))
    for event, saved_to in ((lost(1, PROMPT, 20, 40), 20), (lost(1, [*PROMPT, 7, 8], 60, 62), 60)):
        state, effects = run(working, event)
        assert effects == []
        state, effects = run(state, captured(1, 40, 62, generated=[7, 8]), finished(1, [7, 8, 9], 62, captured_to=62))
        assert state.slots[0].captured_to == saved_to
        assert [effect.saved_end for effect in effects if isinstance(effect, Complete)] == [None]


def test_a_request_that_extends_what_another_has_saved_is_affected_too() -> None:
    """It was not saved again for it."""
    shared = [*PROMPT[:50], *B[:10]]
    hit = msgspec.structs.replace(hit_of(shared, 40), chain=(), length=0)  # pending, not to be had yet
    state, effects = run(state_with(), submit(1, shared), found(1, hit))
    plan = generate_of(effects).saves
    assert plan is not None
    assert plan.captured_to == 40
    state, _ = run(state, lost(7, PROMPT, 0, 20), lost(7, PROMPT, 20, 40), finished(1, [], 60, captured_to=60))
    assert state.slots[0].captured_to == 0


def test_a_request_that_has_not_begun_saves_the_lost_row_itself() -> None:
    """The row was lost between the look-up's answer and the first job; then nothing is missing."""
    hit = hit_of(PROMPT, 20)
    state, _ = run(state_with(), submit(1, PROMPT), found(1, hit), lost(7, PROMPT, 0, 20))
    assert stage(state, 1) == "restoring"
    state, effects = run(state, row_read(1, None))
    plan = generate_of(effects).saves
    assert plan is not None
    assert (plan.captured_to, plan.prompt_ends) == (0, (20, 40))
    assert at(state, 1, Working).core.lost_from == NOTHING_LOST


def test_a_waiting_request_looks_up_by_itself() -> None:
    """The cache knows what is saved."""
    state, _ = run(state_with(n_seq_max=1), submit(1, A), found(1), submit(2, PROMPT))
    assert run(state, lost(7, PROMPT, 0, 20)) == (state, [])


def test_a_parked_request_remembers_the_loss() -> None:
    """What was settled on the thread is not copied out a second time before the request is over."""
    state = begun(state_with(n_cells=132), asked(1, A), asked(2, B, max_new_tokens=5))
    state, _ = run(state, Wants(1, 64), Wants(1, 68), captured(2, 0, 62, generated=[7, 8]))
    state, _ = run(state, Parked(request_id=2, held=62, token_ids=[7, 8]), lost(2, [*B, 7, 8], 0, 62))
    assert at(state, 2, ParkedStage).begun.captured_to == 0
    state, _ = run(state, finished(1, [], held=69), found(2), finished(2, [7, 8, 9], held=62, captured_to=62))
    assert state.slots[1].captured_to == 0


# --- while everything is saved -----------------------------------------------------------------------------------


def test_a_row_that_was_lost_is_saved_again_by_the_eviction_under_way() -> None:
    """Before what extends it, which is tried again."""
    state, effects = run(state_with(kept(0, A, captured_to=40)), EVICT)
    assert [(job.start, job.end) for job in jobs(effects)] == [(40, 60)]
    state, _ = run(state, lost(7, A, 20, 40))
    state, effects = run(state, captured(-1, 40, 60))
    assert [(job.start, job.end) for job in jobs(effects)] == [(20, 60)]
    _, effects = run(state, captured(-2, 20, 60))
    assert effects[-1] == AnswerSaved(90)


def test_a_range_that_an_eviction_has_saved_in_vain_is_not_tried_again() -> None:
    """The tier does not take it; the sequence is forgotten all the same, and the next one has its turn."""
    long = list(range(1200))
    state = state_with(kept(0, long, captured_to=0), kept(1, A, captured_to=0, used_at=1.0), n_cells=2000)
    state, _ = run(state, EVICT, captured(-1, 0, 512))
    state, effects = run(state, lost(-1, long, 0, 512))
    assert jobs(effects) == [Drop(0)]
    state, effects = run(state, captured(-2, 512, 1024))
    assert [type(effect) for effect in effects] == [SaveRow, type(effects[1])]
    assert jobs(effects) == [Capture(request_id=-3, seq_id=1, start=0, end=60, reason="evict")]


def test_what_an_eviction_that_was_left_has_saved_in_vain_is_known() -> None:
    """The sequence is still idle, and the next eviction saves it."""
    state, _ = run(state_with(kept(0, A, captured_to=20)), EVICT, LEFT, captured(-1, 20, 60))
    assert state.slots[0].captured_to == 60
    state, _ = run(state, lost(-1, A, 20, 60))
    assert state.slots[0].captured_to == 20
