"""Saving what is at rest: an eviction waits for nobody at work, a shutdown ends them, and all is answered."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.requests import IDLE, PROMPT, captured, finished, found, hit_of, restored, row_read, rows_of, run, submit
from helpers.rows import IDENTITY

from erllama_py.cache.keys import pack_tokens
from erllama_py.engine.jobs import Cancel, Capture, Drop, Failed
from erllama_py.model.messages import (
    AnswerSaved,
    CancelRequest,
    Complete,
    EndLookUp,
    FailRequest,
    LookUp,
    SaveAll,
    SaveRow,
    SendJob,
)
from erllama_py.model.slots import Slot
from erllama_py.model.state import changed, new_state, with_slot

EVICT, SHUTDOWN = SaveAll(90, "evict"), SaveAll(91, "shutdown")
# Six tokens are live, three of them saved.
RESTED, _ = run(IDLE, submit(1, [1, 2, 3, 4, 5, 6]), found(1), finished(1, [], held=6, captured_to=3))
ROWS = rows_of(PROMPT, 20, 40)
LOOKING, _ = run(IDLE, submit(2, PROMPT))
RESTORING, _ = run(LOOKING, found(2, hit_of(PROMPT, 20, 40)), row_read(2, ROWS[0]))
WORKING, _ = run(LOOKING, found(2))
# The same six tokens at rest, and a request at work beside them.
BOTH, _ = run(
    new_state(changed(IDLE.limits, n_seq_max=2)),
    submit(1, [1, 2, 3, 4, 5, 6]), found(1), finished(1, [], held=6, captured_to=3), submit(2, PROMPT), found(2),
)  # fmt: skip


def capture(reason: Any, ticket: int = -1, seq_id: int = 0, start: int = 3, end: int = 6) -> SendJob:
    return SendJob(Capture(request_id=ticket, seq_id=seq_id, start=start, end=end, reason=reason))


def test_a_long_sequence_is_copied_out_in_spans() -> None:
    """Each is a job of its own, so that others decode in between; the answer waits for all of them."""
    slot = Slot(0, pack_tokens(range(1200)), 0, IDENTITY, captured_to=100)
    state, effects = run(with_slot(IDLE, slot), EVICT)
    spans = ((100, 512), (512, 1024), (1024, 1200))
    assert effects == [*(capture("evict", -1 - n, 0, *span) for n, span in enumerate(spans)), SendJob(Drop(0))]
    state, effects = run(state, *(captured(-1 - n, *span) for n, span in enumerate(spans)))
    assert effects[-1] == AnswerSaved(90)
    assert not state.copies


@pytest.mark.parametrize("event", [EVICT, SHUTDOWN], ids=lambda event: event.reason)
def test_a_model_at_rest_saves_what_it_holds_and_forgets_it(event: SaveAll) -> None:
    """From where the last row ended; the answer comes when the copy was handed over."""
    state, effects = run(RESTED, event)
    assert effects == [capture(event.reason), SendJob(Drop(0))]
    assert state.slots == (Slot(0),)
    state, effects = run(state, save := captured(-1, 3, 6, reason=event.reason))
    assert effects == [SaveRow(IDENTITY, pack_tokens([1, 2, 3, 4, 5, 6]), save, None), AnswerSaved(event.ticket)]
    assert (state.copies, state.save_alls) == ({}, ())


@pytest.mark.parametrize(
    ("captured_to", "min_tokens"),
    [(3, 0), (0, 4), (0, None), (5, 0)],
    ids=["saved already", "too short", "nothing is saved", "saved beyond it"],
)
def test_where_nothing_is_to_be_saved_the_answer_comes_at_once(captured_to: int, min_tokens: int | None) -> None:
    """The cells are free all the same."""
    slot = Slot(0, pack_tokens([1, 2, 3]), 0, IDENTITY, captured_to)
    state, effects = run(with_slot(new_state(changed(IDLE.limits, min_tokens=min_tokens)), slot), EVICT)
    assert effects == [SendJob(Drop(0)), AnswerSaved(90)]
    assert state.slots == (Slot(0),)


def test_of_a_model_that_holds_nothing_nothing_is_forgotten() -> None:
    """The engine does not hear of it."""
    assert run(IDLE, EVICT)[1] == [AnswerSaved(90)]


def test_a_copy_that_could_not_be_made_is_answered_too() -> None:
    """There was no buffer: the cache is told, and the caller does not wait."""
    state, _ = run(RESTED, EVICT)
    _, effects = run(state, captured(-1, 3, 6, payload=None, skipped="no_buffer"))
    assert [type(effect) for effect in effects] == [SaveRow, AnswerSaved]


@pytest.mark.parametrize("state", [LOOKING, RESTORING, WORKING], ids=["looking", "restoring", "working"])
def test_an_eviction_leaves_a_request_alone(state: Any) -> None:
    """Whether the engine has begun it or not, nothing is at rest in its sequence."""
    after, effects = run(state, EVICT)
    assert effects == [AnswerSaved(90)]
    assert after == state


def test_an_eviction_saves_what_is_at_rest_beside_a_request_at_work() -> None:
    """Which goes on, and keeps its sequence when it is over."""
    state, effects = run(BOTH, EVICT)
    assert effects == [capture("evict"), SendJob(Drop(0))]
    state, effects = run(state, captured(-1, 3, 6))
    assert effects[-1] == AnswerSaved(90)
    state, effects = run(state, finished(2, [], held=60, captured_to=60))
    assert [type(effect) for effect in effects] == [Complete]
    assert [slot.length for slot in state.slots] == [0, 60]


def test_what_comes_to_rest_while_an_eviction_is_under_way_goes_with_it() -> None:
    """And the answer waits for its copy as for the others."""
    state, _ = run(BOTH, EVICT)
    state, effects = run(state, finished(2, [], held=60, captured_to=40))
    assert effects[1:] == [capture("evict", -2, 1, 40, 60), SendJob(Drop(1))]
    state, effects = run(state, captured(-1, 3, 6))
    assert [type(effect) for effect in effects] == [SaveRow]
    state, effects = run(state, captured(-2, 40, 60))
    assert effects[-1] == AnswerSaved(90)
    assert state.slots == (Slot(0), Slot(1))


def test_an_eviction_waits_for_copies_that_were_begun_before() -> None:
    """What a request has pushed out was at rest as well."""
    state, effects = run(RESTED, submit(2, PROMPT))
    assert effects == [capture("evict"), SendJob(Drop(0)), LookUp(submit(2, PROMPT).request)]
    state, effects = run(state, EVICT)
    assert effects == []
    assert run(state, captured(-1, 3, 6))[1][-1] == AnswerSaved(90)


def test_requests_do_not_wait_while_cells_are_copied_out() -> None:
    """Jobs are done in order, so the copy is made before anything else touches the sequence."""
    state, _ = run(RESTED, EVICT)
    state, effects = run(state, submit(2))
    assert effects == [LookUp(submit(2).request)]
    assert run(state, captured(7, 0, 3)) == (state, [])  # late, of a request that is over
    assert run(state, captured(-1, 3, 6))[1][-1] == AnswerSaved(90)


def test_evictions_follow_each_other() -> None:
    """The second one finds nothing left, and is answered with the first."""
    state, _ = run(RESTED, EVICT, SaveAll(92, "evict"))
    _, effects = run(state, captured(-1, 3, 6))
    assert [effect.ticket for effect in effects if isinstance(effect, AnswerSaved)] == [90, 92]


# --- shutdown ----------------------------------------------------------------------------------------------------


def test_a_shutdown_ends_the_request_at_work() -> None:
    """What it has is saved; who waits for it, or in the queue, learns from the model's end that it is over."""
    state, effects = run(WORKING, submit(3), SHUTDOWN)
    assert effects == [SendJob(Cancel(2))]
    state, effects = run(state, finished(2, [8], held=60, captured_to=40, reason="cancelled"))
    assert effects == [capture("shutdown", start=40, end=60), SendJob(Drop(0))]
    state, effects = run(state, captured(-1, 40, 60, reason="shutdown"))
    assert effects[-1] == AnswerSaved(91)
    assert not any(isinstance(effect, LookUp) for effect in effects)
    assert run(state, submit(4))[1] == []


def test_a_shutdown_waits_for_the_last_of_those_at_work() -> None:
    """Then all are copied out and forgotten, those that are saved already first."""
    state, _ = run(BOTH, submit(3, [7, 8, 9]), found(3))  # it has taken the place of the six tokens
    state, effects = run(state, SHUTDOWN)
    assert effects == [SendJob(Cancel(2)), SendJob(Cancel(3))]
    state, effects = run(state, finished(2, [], held=60, captured_to=40, reason="cancelled"))
    assert effects == []
    state, effects = run(state, captured(-1, 3, 6))
    assert [type(effect) for effect in effects] == [SaveRow]
    state, effects = run(state, finished(3, [], held=3, captured_to=3, reason="cancelled"))
    assert effects == [SendJob(Drop(0)), capture("shutdown", -2, 1, 40, 60), SendJob(Drop(1))]
    assert run(state, captured(-2, 40, 60))[1][-1] == AnswerSaved(91)


def test_a_shutdown_cancels_what_was_not_yet_begun() -> None:
    """A look-up ends, and there is nothing to save of it."""
    state, effects = run(LOOKING, SHUTDOWN)
    assert [type(effect) for effect in effects] == [SendJob, EndLookUp, AnswerSaved]
    assert effects[0] == SendJob(Drop(0))
    assert run(state, found(2)) == (state, [])


def test_a_shutdown_while_rows_go_in_saves_nothing() -> None:
    """What the cells hold is saved, or is not known."""
    state, effects = run(RESTORING, SHUTDOWN)
    dropped, ended, answer = effects
    assert isinstance(ended, EndLookUp)
    assert (dropped, answer) == (SendJob(Drop(0)), AnswerSaved(91))
    for late in (restored(2, ROWS[0]), row_read(2, ROWS[1])):
        assert run(state, late) == (state, [])


def test_a_request_that_a_shutdown_ends_cannot_be_cancelled_again() -> None:
    """The engine was told once."""
    state, _ = run(WORKING, SHUTDOWN)
    assert run(state, CancelRequest(2)) == (state, [])


def test_a_failure_during_a_shutdown_leaves_nothing_to_save() -> None:
    """The request is told, and so is the caller."""
    _, effects = run(WORKING, SHUTDOWN, Failed(2, "SamplerFailed", "x"))
    assert effects == [FailRequest(2, "SamplerFailed", "x"), SendJob(Drop(0)), AnswerSaved(91)]
