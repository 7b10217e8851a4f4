"""Saving what is at rest: an eviction waits for its turn, a shutdown makes it, and no request is lost meanwhile."""

from __future__ import annotations

from typing import Any

import msgspec
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

EVICT, SHUTDOWN = SaveAll(90, "evict"), SaveAll(91, "shutdown")
# Six tokens are live, three of them saved.
RESTED, _ = run(IDLE, submit(1, [1, 2, 3, 4, 5, 6]), found(1), finished(1, [], held=6, captured_to=3))
ROWS = rows_of(PROMPT, 20, 40)
LOOKING, _ = run(RESTED, submit(2, PROMPT))
RESTORING, _ = run(LOOKING, found(2, hit_of(PROMPT, 20, 40)), row_read(2, ROWS[0]))
WORKING, _ = run(LOOKING, found(2))


def copied(ticket: int, reason: str) -> Any:
    return captured(ticket, 3, 6, reason=reason)


@pytest.mark.parametrize("event", [EVICT, SHUTDOWN], ids=lambda event: event.reason)
def test_a_model_at_rest_saves_what_it_holds_and_forgets_it(event: SaveAll) -> None:
    """From where the last row ended; the answer comes when the copy was handed over."""
    state, effects = run(RESTED, event)
    capture = Capture(request_id=event.ticket, seq_id=0, start=3, end=6, reason=event.reason)
    assert effects == [SendJob(capture)]
    state, effects = run(state, save := copied(event.ticket, event.reason))
    saved = SaveRow(IDENTITY, pack_tokens([1, 2, 3, 4, 5, 6]), save, None)
    assert effects == [saved, SendJob(Drop(0)), AnswerSaved(event.ticket)]
    assert state.slot == Slot(0)
    assert state.saving is None


@pytest.mark.parametrize(
    ("slot", "min_tokens"),
    [
        (Slot(0), 0),
        (Slot(0, [1, 2, 3], 0, IDENTITY, 3), 0),
        (Slot(0, [1, 2, 3], 0, IDENTITY, 0), 4),
        (Slot(0, [1, 2, 3], 0, IDENTITY, 0), None),
        (Slot(0, [1, 2, 3], 0, IDENTITY, 5), 0),
    ],
    ids=["empty", "saved already", "too short", "nothing is saved", "saved beyond it"],
)
def test_where_nothing_is_to_be_saved_the_answer_comes_at_once(slot: Slot, min_tokens: int | None) -> None:
    """The cells are free all the same."""
    state, effects = run(msgspec.structs.replace(IDLE, slot=slot, min_tokens=min_tokens), EVICT)
    assert effects == [SendJob(Drop(0)), AnswerSaved(90)]
    assert state.slot == Slot(0)


def test_a_copy_that_could_not_be_made_is_answered_too() -> None:
    """There was no buffer: the cache is told, and the caller does not wait."""
    state, _ = run(RESTED, EVICT)
    _, effects = run(state, captured(90, 3, 6, payload=None, skipped="no_buffer"))
    assert [type(effect) for effect in effects] == [SaveRow, SendJob, AnswerSaved]


def test_an_eviction_waits_for_the_request_at_work() -> None:
    """And has its turn before the next one."""
    state, effects = run(WORKING, submit(3), EVICT)
    assert effects == []
    state, effects = run(state, finished(2, [], held=60, captured_to=40))
    answer, capture = effects
    assert isinstance(answer, Complete)
    assert capture == SendJob(Capture(request_id=90, seq_id=0, start=40, end=60, reason="evict"))
    _, effects = run(state, captured(90, 40, 60))
    assert effects[-1] == LookUp(submit(3).request)


def test_an_eviction_waits_for_a_request_that_looks_up() -> None:
    """A cancel gives it its turn, with the live cells as they were."""
    state, effects = run(LOOKING, submit(3), EVICT)
    assert effects == []
    state, effects = run(state, CancelRequest(2))
    assert [type(effect) for effect in effects] == [EndLookUp, Complete, SendJob]
    assert effects[-1] == SendJob(Capture(request_id=90, seq_id=0, start=3, end=6, reason="evict"))


def test_an_eviction_waits_for_rows_that_go_in() -> None:
    """After a cancel there nothing is known of the cells, so nothing is saved."""
    state, effects = run(RESTORING, submit(3), EVICT)
    assert effects == []
    _, effects = run(state, CancelRequest(2))
    assert [type(effect) for effect in effects] == [EndLookUp, Complete, SendJob, AnswerSaved, LookUp]


def test_requests_wait_while_cells_are_copied_out() -> None:
    """Nothing else touches the sequence."""
    state, effects = run(RESTED, EVICT, submit(2))
    assert effects == []
    assert run(state, captured(7, 0, 3)) == (state, [])  # late, of a request that is over
    _, effects = run(state, copied(90, "evict"))
    assert effects[-1] == LookUp(submit(2).request)


def test_evictions_follow_each_other() -> None:
    """The second one finds nothing left, and is answered with the first."""
    state, _ = run(RESTED, EVICT, SaveAll(92, "evict"))
    _, effects = run(state, copied(90, "evict"))
    assert [effect.ticket for effect in effects if isinstance(effect, AnswerSaved)] == [90, 92]


def test_a_shutdown_ends_the_request_at_work() -> None:
    """What it has is saved; who waits for it learns from the model's end that it is over."""
    state, effects = run(WORKING, submit(3), SHUTDOWN)
    assert effects == [SendJob(Cancel(2))]
    state, effects = run(state, finished(2, [8], held=60, captured_to=40, reason="cancelled"))
    assert effects == [SendJob(Capture(request_id=91, seq_id=0, start=40, end=60, reason="shutdown"))]
    state, effects = run(state, captured(91, 40, 60, reason="shutdown"))
    assert effects[-1] == AnswerSaved(91)
    assert not any(isinstance(effect, LookUp) for effect in effects)
    assert run(state, submit(4))[1] == []


def test_a_shutdown_during_a_look_up_saves_what_is_live() -> None:
    """The request has not touched it."""
    state, effects = run(LOOKING, SHUTDOWN)
    ended, capture = effects
    assert isinstance(ended, EndLookUp)
    assert capture == SendJob(Capture(request_id=91, seq_id=0, start=3, end=6, reason="shutdown"))
    assert run(state, found(2)) == (state, [])


def test_a_shutdown_while_rows_go_in_saves_nothing() -> None:
    """What the cells hold is saved, or is not known."""
    state, effects = run(RESTORING, SHUTDOWN)
    ended, *rest = effects
    assert isinstance(ended, EndLookUp)
    assert rest == [SendJob(Drop(0)), AnswerSaved(91)]
    for late in (restored(2, ROWS[0]), row_read(2, ROWS[1])):
        assert run(state, late) == (state, [])


def test_a_failure_during_a_shutdown_leaves_nothing_to_save() -> None:
    """The request is told, and so is the caller."""
    _, effects = run(WORKING, SHUTDOWN, Failed(2, "SamplerFailed", "x"))
    assert effects == [FailRequest(2, "SamplerFailed", "x"), SendJob(Drop(0)), AnswerSaved(91)]
