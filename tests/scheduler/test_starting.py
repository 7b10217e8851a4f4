"""How a request starts: rows are read, restored and waited for, and whatever fails on the way, it goes on."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from helpers.requests import (
    IDLE,
    NOTHING,
    PROMPT,
    captured,
    finished,
    found,
    generate_of,
    hit_of,
    jobs,
    restore_of,
    restored,
    row_read,
    rows_of,
    run,
    submit,
)
from helpers.rows import IDENTITY
from helpers.stages import requests
from helpers.states import asked, kept

from erllama_py.cache.keys import pack_tokens
from erllama_py.engine.backend import MemoryKind
from erllama_py.engine.jobs import CapturePlan, Drop, Generate, NotHeld, Spoiled
from erllama_py.results import CacheHit
from erllama_py.scheduler.messages import (
    CancelRequest,
    Complete,
    EndLookUp,
    LookUp,
    ReadRows,
    RefuseRows,
    RowTaken,
    SaveRow,
    SendJob,
    Submit,
)
from erllama_py.scheduler.state import State, changed, new_state, with_slot

ROWS = rows_of(PROMPT, 20, 40, 60)
HIT = hit_of(PROMPT, 20, 40, 60)
LOOKING, _ = run(IDLE, submit(1, PROMPT))
RESTORING, _ = run(LOOKING, found(1, HIT))


def with_live(tokens: list[int], memory: MemoryKind = "full") -> State:
    """A model whose only sequence holds `tokens`, that now looks `PROMPT` up."""
    idle = changed(IDLE, limits=changed(IDLE.limits, memory=memory))
    state, _ = run(idle, submit(9, tokens), found(9), finished(9, [], held=len(tokens)), submit(1, PROMPT))
    return state


# --- the way of a hit --------------------------------------------------------------------------------------------


def test_the_rows_of_a_hit_are_read() -> None:
    """All of the chain, in order; the engine hears of none before it is there."""
    state, effects = run(LOOKING, found(1, HIT))
    assert effects == [ReadRows(1, ROWS)]
    assert state.phase == "prefilling"


def test_rows_go_to_the_engine_as_they_come() -> None:
    """Each as it is read, before the one before it is in."""
    state = RESTORING
    for row in ROWS:
        state, effects = run(state, row_read(1, row))
        job = restore_of(effects)
        assert (job.request_id, job.seq_id, job.start, job.end) == (1, 0, row.meta.start, row.meta.end)
        assert len(effects) == 1


def test_the_generation_begins_when_the_last_row_is_in() -> None:
    """Each row that is taken lets one more be read; with the last one the look-up ends."""
    state, _ = run(RESTORING, *(row_read(1, row) for row in ROWS), now=2.0)
    for row in ROWS[:2]:
        state, effects = run(state, restored(1, row))
        assert effects == [RowTaken(1)]
    state, effects = run(state, restored(1, ROWS[2]), now=5.0)
    hit = CacheHit("exact", 59)
    assert effects[:2] == [RowTaken(1), EndLookUp(1, hit, ROWS, None, 4.0)]
    job = generate_of(effects)
    assert (job.keep, job.logits, job.keep_logits) == (59, None, True)
    assert state.last_hit == hit


def test_a_row_may_be_in_before_the_next_one_is_read() -> None:
    """The generation waits for those that are to come."""
    state, effects = run(RESTORING, row_read(1, ROWS[0]), restored(1, ROWS[0]), row_read(1, ROWS[1]))
    assert len(jobs(effects)) == 1
    _, effects = run(state, restored(1, ROWS[1]), row_read(1, ROWS[2]), restored(1, ROWS[2]))
    assert generate_of(effects).keep == 59


def test_the_engine_knows_the_priority_of_a_request() -> None:
    """It reads prompts by it."""
    _, effects = run(IDLE, asked(1, PROMPT, priority=7), found(1))
    assert generate_of(effects).priority == 7


def test_rows_go_after_the_live_cells() -> None:
    """Only those that are not there yet are read."""
    state, effects = run(with_live(PROMPT[:30]), found(1, HIT))
    assert effects == [ReadRows(1, ROWS[1:])]
    _, effects = run(state, *(row_read(1, row) for row in ROWS[1:]), *(restored(1, row) for row in ROWS[1:]))
    assert generate_of(effects).keep == 59


def test_the_logits_in_memory_spare_every_decode() -> None:
    """The first token is drawn from them, and the engine need not report them again."""
    state, _ = run(LOOKING, found(1, HIT, b"kept"))
    _, effects = run(state, *(row_read(1, row) for row in ROWS), *(restored(1, row) for row in ROWS))
    job = generate_of(effects)
    assert (job.keep, job.logits, job.keep_logits) == (60, b"kept", False)


def test_the_logits_of_the_last_row_spare_every_decode() -> None:
    """Not those of a row on the way, which are another prompt's."""
    rows = rows_of(PROMPT, 20, 60, logits=(20, 60))
    recurrent = with_live([7], "recurrent")
    state, _ = run(recurrent, found(1, hit_of(PROMPT, 20, 60, logits=(20, 60))))
    _, effects = run(state, *(row_read(1, row) for row in rows), *(restored(1, row) for row in rows))
    job = generate_of(effects)
    assert (job.keep, job.logits, job.keep_logits) == (60, (60).to_bytes(4, "little"), False)


def test_the_answer_says_where_the_rows_came_from() -> None:
    """The tier of the last one, the bytes, and the seconds of each step."""
    state, _ = run(IDLE, submit(1, PROMPT), now=1.0)
    state, _ = run(state, found(1, HIT), now=2.0)
    events: list[Any] = [*(row_read(1, row) for row in ROWS), *(restored(1, row) for row in ROWS)]
    state, _ = run(state, *events, now=5.0)
    _, effects = run(state, finished(1, [7], held=60), now=9.0)
    assert isinstance(effects[0], Complete)
    outline = effects[0].outline
    assert (outline.hit, outline.tier, outline.miss_reason) == (CacheHit("exact", 59), "disk", None)
    assert (outline.lookup_seconds, outline.restore_seconds, outline.restored_bytes) == (1.0, 3.0, 30)


@pytest.mark.parametrize("named", [None, b"k" * 32], ids=["no parent", "a parent"])
def test_the_cache_learns_whether_the_caller_named_a_parent(named: bytes | None) -> None:
    """The key that a session's turn, or a follower, is looked up with is not the caller's."""
    request = changed(submit(1, PROMPT).request, parent_key=named, session_id="s")
    state, effects = run(changed(IDLE, left={(IDENTITY, "s"): b"l" * 32}), Submit(request))
    assert effects == [LookUp(changed(request, parent_key=named or b"l" * 32))]
    _, effects = run(state, found(1))
    assert [effect.resumed for effect in effects if isinstance(effect, EndLookUp)] == [named is not None]


# --- what goes wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readable", [0, 1, 2])
def test_a_row_that_cannot_be_read_ends_the_chain(readable: int) -> None:
    """The request starts from the rows before it, and saves again from there."""
    state, effects = run(RESTORING, *(row_read(1, row) for row in ROWS[:readable]))
    state, effects = run(state, row_read(1, None))
    for row in ROWS[:readable]:
        assert not any(isinstance(job, Generate) for job in jobs(effects))
        state, effects = run(state, restored(1, row))
    job, at = generate_of(effects), 20 * readable
    assert job.saves is not None
    assert (job.keep, job.saves.captured_to, job.logits) == (at, at, None)
    (ended,) = (effect for effect in effects if isinstance(effect, EndLookUp))
    assert (ended.rows, ended.refused) == (ROWS[:readable], None)
    assert ended.hit == (CacheHit("partial", at) if readable else CacheHit("cold", 0))
    _, effects = run(state, finished(1, [7], held=60))
    assert isinstance(effects[0], Complete)
    assert effects[0].outline.miss_reason == "a row could not be read"


@pytest.mark.parametrize("refused", [0, 1, 2])
def test_a_row_that_the_engine_refuses_ends_the_chain(refused: int) -> None:
    """It is named, so that the cache forgets it; those sent after it are dropped."""
    state, _ = run(RESTORING, *(row_read(1, row) for row in ROWS), *(restored(1, row) for row in ROWS[:refused]))
    state, effects = run(state, restored(1, ROWS[refused], ok=False))
    job, at = generate_of(effects), 20 * refused
    assert job.saves is not None
    assert (job.keep, job.saves.captured_to) == (at, at)
    (ended,) = (effect for effect in effects if isinstance(effect, EndLookUp))
    assert (ended.rows, ended.refused) == (ROWS[:refused], ROWS[refused])
    assert ended.hit == (CacheHit("partial", at) if refused else CacheHit("cold", 0))
    for row in ROWS[refused + 1 :]:
        assert run(state, restored(1, row, ok=False, held=at)) == (state, [])


def test_a_refusal_that_leaves_nothing_starts_from_nothing() -> None:
    """Cells that are gone are not counted on; what is saved of them still is."""
    state, _ = run(RESTORING, *(row_read(1, row) for row in ROWS[:2]), restored(1, ROWS[0]))
    _, effects = run(state, restored(1, ROWS[1], ok=False, held=0))
    job = generate_of(effects)
    assert job.saves is not None
    assert (job.keep, job.saves.captured_to, job.saves.prompt_ends) == (0, 20, (40,))
    assert any(isinstance(effect, EndLookUp) and effect.refused == ROWS[1] for effect in effects)


def test_a_refusal_among_rows_of_another_tier_leaves_no_hole() -> None:
    """What was restored may not be saved in this model's tier: its rows go on where that ends."""
    hit = msgspec.structs.replace(HIT, saved_to=20)
    state, _ = run(LOOKING, found(1, hit))
    state, _ = run(state, *(row_read(1, row) for row in ROWS), *(restored(1, row) for row in ROWS[:2]))
    _, effects = run(state, restored(1, ROWS[2], ok=False))
    job = generate_of(effects)
    assert job.saves is not None
    assert (job.keep, job.saves.captured_to) == (40, 20)


def test_rows_that_are_read_after_a_refusal_are_nothing() -> None:
    """The request is at work already."""
    state, _ = run(RESTORING, row_read(1, ROWS[0]), restored(1, ROWS[0], ok=False))
    assert run(state, row_read(1, ROWS[1])) == (state, [])
    assert run(state, row_read(1, None)) == (state, [])


def test_live_cells_survive_rows_that_cannot_be_read() -> None:
    """As far as the first of these rows begins."""
    state, _ = run(with_live(PROMPT[:30]), found(1, HIT))
    state, effects = run(state, row_read(1, None))
    assert generate_of(effects).keep == 20
    assert state.last_hit == CacheHit("live", 20)


def test_without_the_cache_a_request_starts_from_what_is_live() -> None:
    """It is starting, or gone."""
    _, effects = run(with_live(PROMPT[:30]), found(1, None))
    job = generate_of(effects)
    assert (job.keep, job.saves) == (30, None)


# --- the end comes early -----------------------------------------------------------------------------------------


def test_a_request_is_cancelled_while_it_is_looked_up() -> None:
    """The answer is there at once, the cache gets its `Used`, and what it was to begin with stays."""
    before = with_live(PROMPT[:30])
    state, effects = run(before, CancelRequest(1))
    ended, answer = effects
    assert ended == EndLookUp(1, CacheHit("cold", 0), (), None, 0.0)
    assert isinstance(answer, Complete)
    assert answer.outline.miss_reason == "cancelled while it was looked up"
    assert not requests(state)
    assert [slot.packed for slot in state.idle] == [pack_tokens(PROMPT[:30])]
    assert run(state, found(1, HIT)) == (state, [])
    assert generate_of(run(state, submit(2, PROMPT), found(2, NOTHING))[1]).keep == 30


def test_a_request_is_cancelled_while_its_rows_go_in() -> None:
    """Rows that are being restored may still go in, so the next request starts from nothing; late events are
    ignored."""
    state, _ = run(RESTORING, row_read(1, ROWS[0]), row_read(1, ROWS[1]), restored(1, ROWS[0]), submit(2, PROMPT))
    state, effects = run(state, CancelRequest(1))
    dropped, ended, answer, next_one = effects
    assert dropped == SendJob(Drop(0))
    assert isinstance(ended, EndLookUp)
    assert (ended.rows, ended.refused) == (ROWS[:1], None)
    assert isinstance(answer, Complete)
    assert answer.finished is None
    assert next_one == LookUp(submit(2, PROMPT).request)
    for late in (restored(1, ROWS[1]), row_read(1, ROWS[2]), row_read(1, None)):
        assert run(state, late) == (state, [])
    _, effects = run(state, found(2, NOTHING))
    assert generate_of(effects).keep == 0


def test_a_cancel_at_work_goes_to_the_engine_once_the_rows_are_in() -> None:
    """From then on it knows the request."""
    state, _ = run(LOOKING, found(1, NOTHING))
    _, effects = run(state, CancelRequest(1))
    assert [type(effect) for effect in effects] == [SendJob]


@pytest.mark.parametrize("event", [found(2, HIT), row_read(2, ROWS[0]), restored(2, ROWS[0]), captured(2, 0, 20)])
def test_what_is_meant_for_another_request_is_nothing(event: Any) -> None:
    """In every stage."""
    for state in (LOOKING, RESTORING, run(LOOKING, found(1))[0]):
        assert run(state, event) == (state, [])


def test_an_answer_that_comes_twice_is_taken_once() -> None:
    """The second one is for no request that looks up."""
    assert run(RESTORING, found(1, HIT)) == (RESTORING, [])


@pytest.mark.parametrize("bad", [True, False])
def test_only_a_row_that_is_to_blame_is_reported(bad: bool) -> None:
    """Where the engine was unable to take it, it is left alone; the request begins with what it has all the same."""
    state, _ = run(RESTORING, *(row_read(1, row) for row in ROWS), restored(1, ROWS[0]), now=2.0)
    _, effects = run(state, restored(1, ROWS[1], ok=False, bad=bad))
    (ended,) = [effect for effect in effects if isinstance(effect, EndLookUp)]
    assert (ended.refused, ended.bad, ended.rows) == (ROWS[1], bad, ROWS[:1])
    assert generate_of(effects).keep == 20


def test_rows_that_gave_no_numbers_are_refused() -> None:
    """All that the request began with, once; it counts as computed from its first token on."""
    state, _ = run(RESTORING, *(row_read(1, row) for row in ROWS), *(restored(1, row) for row in ROWS), now=2.0)
    state, effects = run(state, Spoiled(1))
    assert effects == [RefuseRows(ROWS)]
    _, effects = run(state, Spoiled(1))
    assert effects == [RefuseRows(())]
    _, effects = run(state, finished(1, [1, 2], held=61))
    (complete,) = [effect for effect in effects if isinstance(effect, Complete)]
    assert complete.outline.hit == CacheHit("cold", 0)
    assert "no numbers" in (complete.outline.miss_reason or "")


def test_a_sequence_that_does_not_hold_what_it_should_is_no_fault_of_rows() -> None:
    """The request counts as computed from its first token on, and no row goes."""
    state, _ = run(RESTORING, *(row_read(1, row) for row in ROWS), *(restored(1, row) for row in ROWS), now=2.0)
    state, effects = run(state, NotHeld(1))
    assert effects == []
    _, effects = run(state, finished(1, [1, 2], held=61))
    (complete,) = [effect for effect in effects if isinstance(effect, Complete)]
    assert complete.outline.hit == CacheHit("cold", 0)
    assert "did not hold" in (complete.outline.miss_reason or "")


# --- rows of a state -----------------------------------------------------------------------------------------------


def test_what_the_prompt_alone_would_not_have_saved_is_taken_into_its_next_row() -> None:
    """Its first range begins at the last row that stays; the row that comes of it replaces those of the turns before,
    and only what is new is told as created. What another request or session may stand on stays."""
    idle = new_state(changed(IDLE.limits, memory="recurrent", n_seq_max=2))
    plan = CapturePlan(captured_to=0, prompt_ends=(20, 55, 59), interval=1000, min_tokens=0, apart=30)
    state, effects = run(idle, submit(1, PROMPT, plan=plan), found(1, hit_of(PROMPT, 20, 30, 45)))
    for row in rows_of(PROMPT, 20, 30, 45):
        state, effects = run(state, row_read(1, row), restored(1, row))
    saves = generate_of(effects).saves
    assert saves is not None
    assert (saves.begin, saves.captured_to, saves.prompt_ends) == (20, 45, (55, 59))
    for session_id, replaces in ((None, True), ("of another", False)):
        beside = with_slot(state, kept(1, [*PROMPT[:30], 1, 2], session_id=session_id))
        _, effects = run(beside, captured(1, 20, 55))
        assert [effect.replaces for effect in effects if isinstance(effect, SaveRow)] == [replaces]
    beside, _ = run(state, asked(2, [*PROMPT[:30], 1, 2]))
    assert [effect.replaces for effect in run(beside, captured(1, 20, 55))[1] if isinstance(effect, SaveRow)] == [False]
    state, effects = run(state, captured(1, 20, 55))
    assert [effect.replaces for effect in effects if isinstance(effect, SaveRow)] == [True]
    state, effects = run(state, captured(1, 55, 59))
    assert [effect.replaces for effect in effects if isinstance(effect, SaveRow)] == [False]
    _, effects = run(state, finished(1, [7], held=60, captured_to=59))
    (done,) = (effect for effect in effects if isinstance(effect, Complete))
    assert done.outline.created == 59 - 45
