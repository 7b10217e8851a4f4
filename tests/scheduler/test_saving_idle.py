"""Saving idle sequences: an eviction does not wait for requests at work, a shutdown ends them, and all is answered."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.requests import (
    FAILURE,
    IDLE,
    PROMPT,
    captured,
    finished,
    found,
    generate_of,
    hit_of,
    restored,
    row_read,
    rows_of,
    run,
    submit,
)
from helpers.rows import IDENTITY

from erllama_py.cache.keys import pack_tokens, prefix_keys
from erllama_py.engine.jobs import Cancel, Capture, Captured, Drop, Failed
from erllama_py.scheduler.cells import Slot, written
from erllama_py.scheduler.idle import MOST_TRIES
from erllama_py.scheduler.messages import (
    AnswerSaved,
    AwaitBuffers,
    BuffersBack,
    CancelRequest,
    Complete,
    EndLookUp,
    FailRequest,
    LeaveSaveAll,
    LookUp,
    SaveAll,
    SaveRow,
    SendJob,
    Submit,
)
from erllama_py.scheduler.state import changed, new_state, with_slot

EVICT, SHUTDOWN = SaveAll(90, "evict"), SaveAll(91, "shutdown")
# A long sequence is idle, 100 tokens of it saved, and the ranges of the rest.
LONG = with_slot(IDLE, Slot(0, pack_tokens(range(1200)), 0, IDENTITY, 100, written((), 0, 1200, 1000)))
SPANS = ((100, 512), (512, 1024), (1024, 1200))
# Six tokens are live, three of them saved.
RESTED, _ = run(IDLE, submit(1, [1, 2, 3, 4, 5, 6]), found(1), finished(1, [], held=6, captured_to=3))
ROWS = rows_of(PROMPT, 20, 40)
LOOKING, _ = run(IDLE, submit(2, PROMPT))
RESTORING, _ = run(LOOKING, found(2, hit_of(PROMPT, 20, 40)), row_read(2, ROWS[0]))
WORKING, _ = run(LOOKING, found(2))
# The same six tokens idle, and a request at work beside them.
BOTH, _ = run(
    new_state(changed(IDLE.limits, n_seq_max=2)),
    submit(1, [1, 2, 3, 4, 5, 6]), found(1), finished(1, [], held=6, captured_to=3), submit(2, PROMPT), found(2),
)  # fmt: skip


def capture(reason: Any, ticket: int = -1, seq_id: int = 0, start: int = 3, end: int = 6) -> SendJob:
    return SendJob(Capture(request_id=ticket, seq_id=seq_id, start=start, end=end, reason=reason))


def test_a_long_sequence_is_copied_out_range_by_range() -> None:
    """Each when the one before it is copied, so that a buffer for one suffices; it is forgotten after the last."""
    state, effects = run(LONG, EVICT)
    for number, (start, end) in enumerate(SPANS, 1):
        assert effects[-1:] == [capture("evict", -number, 0, start, end)]
        assert state.slots[0].is_idle
        state, effects = run(state, copied := captured(-number, start, end, reason="evict"))
        assert effects[0] == SaveRow(IDENTITY, LONG.slots[0].packed, copied, None)
    assert effects[1:] == [SendJob(Drop(0)), AnswerSaved(90)]
    assert (state.slots[0], state.copies, state.saving) == (Slot(0), {}, None)


def test_sequences_are_copied_out_one_after_the_other() -> None:
    """Those that are saved already are forgotten at once."""
    slots = [Slot(seq_id, pack_tokens(range(seq_id, 6)), 0, IDENTITY, 3) for seq_id in range(3)]
    state = new_state(changed(IDLE.limits, n_seq_max=4))
    for slot in (*slots, Slot(3, pack_tokens([1, 2]), 0, IDENTITY, 2)):
        state = with_slot(state, slot)
    state, effects = run(state, EVICT)
    assert effects == [SendJob(Drop(3)), capture("evict", -1, 0)]
    state, effects = run(state, captured(-1, 3, 6))
    assert effects[1:] == [SendJob(Drop(0)), capture("evict", -2, 1, end=5)]
    state, effects = run(state, captured(-2, 3, 5))
    assert effects[1:] == [SendJob(Drop(1)), capture("evict", -3, 2, end=4)]
    assert run(state, captured(-3, 3, 4))[1][1:] == [SendJob(Drop(2)), AnswerSaved(90)]


def test_an_eviction_does_not_wait_for_what_becomes_idle_after_it() -> None:
    """Where one request follows another there is always some; a later eviction takes it."""
    state, _ = run(BOTH, EVICT)
    state, _ = run(state, finished(2, [], held=len(PROMPT), captured_to=len(PROMPT)), now=2.0)
    state, effects = run(state, captured(-1, 3, 6), now=3.0)
    assert effects[1:] == [SendJob(Drop(0)), AnswerSaved(90)]
    assert [slot.seq_id for slot in state.idle] == [1]
    state, effects = run(state, SaveAll(92, "evict"), now=4.0)
    assert effects == [SendJob(Drop(1)), AnswerSaved(92)]


@pytest.mark.parametrize("event", [EVICT, SHUTDOWN], ids=lambda event: event.reason)
def test_an_idle_model_saves_what_it_holds_and_forgets_it(event: SaveAll) -> None:
    """From where the last row ended; the answer comes when the copy was handed over."""
    state, effects = run(RESTED, event)
    assert effects == [capture(event.reason)]
    state, effects = run(state, save := captured(-1, 3, 6, reason=event.reason))
    save_row = SaveRow(IDENTITY, pack_tokens([1, 2, 3, 4, 5, 6]), save, None)
    assert effects == [save_row, SendJob(Drop(0)), AnswerSaved(event.ticket)]
    assert (state.slots, state.copies, state.save_alls) == ((Slot(0),), {}, ())


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


# --- no buffer, and other reasons ----------------------------------------------------------------------------------


def no_buffer(ticket: int, start: int = 3, end: int = 6) -> Captured:
    return captured(ticket, start, end, payload=None, skipped="no_buffer")


def test_a_range_without_a_buffer_is_tried_again() -> None:
    """When what was pending is stored; nothing is dropped, and the ranges after it follow."""
    state, _ = run(LONG, EVICT)
    for ticket in (-1, -2, -3):
        state, effects = run(state, no_buffer(ticket, *SPANS[0]))
        assert effects == [AwaitBuffers()]
        state, effects = run(state, BuffersBack())
        assert effects == [capture("evict", ticket - 1, 0, *SPANS[0])]
    state, effects = run(state, captured(-4, *SPANS[0]))
    assert effects[1:] == [capture("evict", -5, 0, *SPANS[1])]
    assert state.saving is not None
    assert state.saving.tries == 0


def test_a_range_that_never_finds_a_buffer_is_given_up() -> None:
    """After so many tries in which nothing came free; the cache counts it once, and the caller is answered."""
    state, effects = run(LONG, EVICT)
    tries = 0
    while effects[0] != (given_up := SaveRow(IDENTITY, LONG.slots[0].packed, no_buffer(-tries - 1, *SPANS[0]), None)):
        assert effects == [capture("evict", -tries - 1, 0, *SPANS[0])]
        state, effects = run(state, no_buffer(-tries - 1, *SPANS[0]))
        if effects == [AwaitBuffers()]:
            tries += 1
            state, effects = run(state, BuffersBack())
    assert tries == MOST_TRIES
    assert effects == [given_up, SendJob(Drop(0)), AnswerSaved(90)]


@pytest.mark.parametrize("skipped", ["too_large", "forgotten"])
def test_a_range_that_cannot_be_copied_is_given_up_at_once(skipped: str) -> None:
    """And with it what extends it: its sequence is forgotten, and the next one has its turn."""
    state = new_state(changed(IDLE.limits, n_seq_max=2))
    state = with_slot(with_slot(state, LONG.slots[0]), Slot(1, pack_tokens([7, 8, 9]), 0, IDENTITY, used_at=1.0))
    state, _ = run(state, EVICT)
    state, effects = run(state, captured(-1, *SPANS[0], payload=None, skipped=skipped))
    assert [type(effect) for effect in effects] == [SaveRow, SendJob, SendJob]
    assert effects[1:] == [SendJob(Drop(0)), capture("evict", -2, 1, 0, 3)]


def test_what_makes_room_for_a_request_does_not_wait_for_buffers() -> None:
    """All is copied at once, and what finds no buffer is reported to the cache: a request waits for the cells."""
    state, effects = run(LONG, submit(2, PROMPT))
    assert effects[:-1] == [*(capture("evict", -1 - n, 0, *span) for n, span in enumerate(SPANS)), SendJob(Drop(0))]
    state, effects = run(state, no_buffer(-1, *SPANS[0]))
    assert [type(effect) for effect in effects] == [SaveRow]


# --- while it is under way -----------------------------------------------------------------------------------------


def test_a_request_may_take_over_what_is_being_saved() -> None:
    """What was copied is right for its tokens; what was not is left to the request."""
    turn = [*range(1200), 7]
    state, _ = run(LONG, EVICT)
    state, effects = run(state, submit(2, turn))
    assert effects == [LookUp(submit(2, turn).request)]
    state, effects = run(state, save := captured(-1, *SPANS[0]))
    assert effects == [SaveRow(IDENTITY, LONG.slots[0].packed, save, None), AnswerSaved(90)]
    _, effects = run(state, found(2))
    assert generate_of(effects).keep == 1200


def test_a_sequence_that_was_taken_over_is_not_tried_again() -> None:
    """Also where the request came while buffers were waited for."""
    state, _ = run(LONG, EVICT, no_buffer(-1, *SPANS[0]), submit(2, [*range(1200), 7]))
    state, effects = run(state, BuffersBack())
    assert effects == [AnswerSaved(90)]
    assert state.saving is None


def test_a_turn_of_a_session_does_not_wait_for_its_copy() -> None:
    """Its sequence is still there."""
    slot = changed(LONG.slots[0], session_id="s")
    state, _ = run(with_slot(IDLE, slot), EVICT)
    turn = changed(submit(2, [*range(1200), 7]).request, session_id="s")
    state, effects = run(state, Submit(turn))
    assert effects == [LookUp(turn)]
    assert generate_of(run(state, found(2))[1]).keep == 1200


def test_a_session_finds_what_was_saved_of_its_sequence() -> None:
    """By the key of the last row, whether all of it could be saved or not."""
    slot = changed(LONG.slots[0], session_id="s")
    state, _ = run(with_slot(IDLE, slot), EVICT, captured(-1, *SPANS[0]), captured(-2, *SPANS[1]))
    whole, _ = run(state, captured(-3, *SPANS[2]))
    part, _ = run(state, captured(-3, *SPANS[2], payload=None, skipped="too_large"))
    keys = prefix_keys(IDENTITY, slot.packed, (1024, 1200))
    assert [part.left, whole.left] == [{slot.session: keys[0]}, {slot.session: keys[1]}]


def test_a_caller_that_has_left_has_nothing_evicted() -> None:
    """The range under way is the last one; what comes to rest stays, and so does what was not yet saved."""
    state, _ = run(LONG, EVICT)
    state, effects = run(state, LeaveSaveAll(90))
    assert (state.save_alls, effects) == ((), [])
    for copied, saved_to in ((captured(-1, *SPANS[0]), 512), (no_buffer(-1, *SPANS[0]), 100)):
        after, effects = run(state, copied)
        if effects == [AwaitBuffers()]:
            after, effects = run(after, BuffersBack())
        assert not any(isinstance(effect, SendJob | AnswerSaved) for effect in effects)
        assert (after.slots[0].captured_to, after.slots[0].length, after.saving) == (saved_to, 1200, None)
    assert run(state, LeaveSaveAll(90)) == (state, [])


def test_other_callers_that_wait_are_answered_all_the_same() -> None:
    """One has gone, the other stays."""
    state, _ = run(RESTED, EVICT, SaveAll(92, "evict"), LeaveSaveAll(90))
    assert run(state, captured(-1, 3, 6))[1][-1] == AnswerSaved(92)


@pytest.mark.parametrize("state", [LOOKING, RESTORING, WORKING], ids=["looking", "restoring", "working"])
def test_an_eviction_leaves_a_request_alone(state: Any) -> None:
    """Whether the engine has begun it or not, nothing idle is in its sequence."""
    after, effects = run(state, EVICT)
    assert effects == [AnswerSaved(90)]
    assert after == state


def test_an_eviction_saves_what_is_idle_beside_a_request_at_work() -> None:
    """Which goes on, and keeps its sequence when it is over."""
    state, effects = run(BOTH, EVICT)
    assert effects == [capture("evict")]
    state, effects = run(state, captured(-1, 3, 6))
    assert effects[1:] == [SendJob(Drop(0)), AnswerSaved(90)]
    state, effects = run(state, finished(2, [], held=60, captured_to=60))
    assert [type(effect) for effect in effects] == [Complete]
    assert [slot.length for slot in state.slots] == [0, 60]


def test_what_becomes_idle_while_an_eviction_is_under_way_goes_with_it() -> None:
    """And the answer waits for its copy as for the others."""
    state, _ = run(BOTH, EVICT)
    state, effects = run(state, finished(2, [], held=60, captured_to=40))
    assert [type(effect) for effect in effects] == [Complete]
    state, effects = run(state, captured(-1, 3, 6))
    assert effects[1:] == [SendJob(Drop(0)), capture("evict", -2, 1, 40, 60)]
    state, effects = run(state, captured(-2, 40, 60))
    assert effects[-1] == AnswerSaved(90)
    assert state.slots == (Slot(0), Slot(1))


def test_an_eviction_waits_for_copies_that_were_begun_before() -> None:
    """What a request has displaced was idle as well."""
    state, effects = run(RESTED, submit(2, PROMPT))
    assert effects == [capture("evict"), SendJob(Drop(0)), LookUp(submit(2, PROMPT).request)]
    state, effects = run(state, EVICT)
    assert effects == []
    assert run(state, captured(-1, 3, 6))[1][-1] == AnswerSaved(90)


def test_requests_do_not_wait_while_cells_are_copied_out() -> None:
    """Jobs are done in order, so the copy is made before anything else touches the sequence."""
    state, _ = run(RESTED, EVICT)
    state, effects = run(state, submit(2))
    assert effects == [capture("evict", -2), SendJob(Drop(0, 3)), LookUp(submit(2).request)]
    state, _ = run(state, captured(-2, 3, 6))
    assert run(state, captured(7, 0, 3)) == (state, [])  # late, of a request that is over
    assert run(state, captured(-1, 3, 6))[1][-1] == AnswerSaved(90)


def test_evictions_follow_each_other() -> None:
    """The second one finds nothing left, and is answered with the first."""
    state, _ = run(RESTED, EVICT, SaveAll(92, "evict"))
    _, effects = run(state, captured(-1, 3, 6))
    assert [effect.ticket for effect in effects if isinstance(effect, AnswerSaved)] == [90, 92]


# --- shutdown ----------------------------------------------------------------------------------------------------


def test_a_shutdown_ends_the_request_at_work() -> None:
    """What it has is saved; callers that wait for it, or in the queue, learn from the model's end that it is over."""
    state, effects = run(WORKING, submit(3), SHUTDOWN)
    assert effects == [SendJob(Cancel(2))]
    state, effects = run(state, finished(2, [8], held=60, captured_to=40, reason="cancelled"))
    assert effects == [capture("shutdown", start=40, end=60)]
    state, effects = run(state, captured(-1, 40, 60, reason="shutdown"))
    assert effects[1:] == [SendJob(Drop(0)), AnswerSaved(91)]
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
    assert effects == [SendJob(Drop(0)), capture("shutdown", -2, 1, 40, 60)]
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
    """The engine was asked once."""
    state, _ = run(WORKING, SHUTDOWN)
    assert run(state, CancelRequest(2)) == (state, [])


def test_a_failure_during_a_shutdown_leaves_nothing_to_save() -> None:
    """The request gets an error, and so does the caller."""
    _, effects = run(WORKING, SHUTDOWN, Failed(2, FAILURE))
    assert effects == [FailRequest(2, FAILURE), SendJob(Drop(0)), AnswerSaved(91)]
