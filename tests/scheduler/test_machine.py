"""The model's state machine as a table: state and event in, state and effects out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from helpers.requests import FAILURE, IDLE, PLAN, captured, finished, found, generate_of, hit_of, run, submit
from helpers.rows import IDENTITY
from helpers.stages import at, queued_ids, requests

from erllama_py.cache.keys import pack_tokens
from erllama_py.engine.backend import MemoryKind
from erllama_py.engine.jobs import Cancel, Died, Drop, Failed, Fault, Outcome, Prefilled, PromptLogits, Text, Wants
from erllama_py.results import CacheHit, Progress, TextDelta
from erllama_py.scheduler.machine import transition
from erllama_py.scheduler.messages import (
    CancelRequest,
    Complete,
    Crash,
    Emit,
    EndLookUp,
    EngineOutcomes,
    FailRequest,
    InjectFault,
    KeepLogits,
    LookUp,
    SaveRow,
    SendJob,
)
from erllama_py.scheduler.outcomes import texts_of
from erllama_py.scheduler.stages import Working
from erllama_py.scheduler.state import changed


def test_an_idle_model_looks_a_request_up_at_once() -> None:
    """The cache is asked first; the engine hears of it when the answer is there."""
    first = submit(1)
    state, effects = run(IDLE, first)
    assert effects == [LookUp(first.request)]
    assert state.phase == "prefilling"
    state, effects = run(state, found(1))
    assert [type(effect) for effect in effects] == [EndLookUp, SendJob]
    job = generate_of(effects)
    assert (job.request_id, job.tokens, job.keep, job.seq_id, job.max_new_tokens) == (1, [1, 2, 3], 0, 0, 4)


@pytest.mark.parametrize("stream", [True, False])
def test_text_on_the_way_is_asked_for_only_by_a_stream(stream: bool) -> None:
    """Without one it comes whole."""
    assert generate_of(run(IDLE, submit(1, stream=stream), found(1))[1]).stream is stream


def test_a_second_request_waits_and_starts_when_the_first_is_over() -> None:
    """One sequence serves them in turn; the answer to the first goes out before the second is looked up."""
    state, effects = run(IDLE, submit(1), found(1), submit(2), submit(3))
    assert effects == []
    assert queued_ids(state) == [2, 3]
    state, effects = run(state, finished(1, [7, 8], held=4, captured_to=4))
    assert isinstance(effects[0], Complete)
    assert effects[0].request.id == 1
    assert effects[1:] == [SendJob(Drop(0, 3)), LookUp(submit(2).request)]


def test_the_next_turn_keeps_what_the_last_one_left() -> None:
    """Prompt and decoded reply stay in the cells; the last sampled token was never decoded."""
    state, _ = run(IDLE, submit(1), found(1), finished(1, [7, 8], held=4))
    assert state.slots[0].packed == pack_tokens([1, 2, 3, 7])
    state, effects = run(state, submit(2, [1, 2, 3, 7, 8, 9]), found(2))
    assert generate_of(effects).keep == 4
    assert state.last_hit == CacheHit("live", 4)


def test_the_cells_of_one_tenant_are_not_lent_to_another() -> None:
    """The same tokens under another identity start from nothing; under the same one they are kept."""
    other = msgspec.structs.replace(IDENTITY, fingerprint=b"o" * 32)
    state, _ = run(IDLE, submit(1), found(1), finished(1, [7], held=3))
    _, effects = run(state, submit(2, [1, 2, 3, 7], identity=other), found(2))
    assert generate_of(effects).keep == 0
    _, effects = run(state, submit(2, [1, 2, 3, 7]), found(2))
    assert generate_of(effects).keep == 3


def test_a_waiting_request_is_cancelled_without_the_engine() -> None:
    """It is answered at once, as cancelled, and is never looked up."""
    state, effects = run(IDLE, submit(1), submit(2), CancelRequest(2))
    assert queued_ids(state) == []
    assert isinstance(effects[0], Complete)
    assert (effects[0].finished, effects[0].started_at) == (None, None)
    assert effects[0].outline.miss_reason == "cancelled before it was looked up"
    assert requests(run(state, found(1), finished(1, [], held=3))[0]) == {}


def test_a_running_request_is_cancelled_by_the_engine() -> None:
    """The thread says when it is over; until then it runs, and is cancelled once."""
    state, effects = run(IDLE, submit(1), found(1), CancelRequest(1))
    assert effects == [SendJob(Cancel(1))]
    assert at(state, 1, Working).begun.leaving
    assert run(state, CancelRequest(1)) == (state, [])


def test_cancelling_what_is_over_or_unknown_does_nothing() -> None:
    """Twice, late, or with an id that never was."""
    for state in (IDLE, run(IDLE, submit(1), found(1), finished(1, [], held=3))[0]):
        assert run(state, CancelRequest(1)) == (state, [])


def test_the_phase_follows_the_engine() -> None:
    """Prefilling until all of the prompt is in, then generating, then idle."""
    state, effects = run(IDLE, submit(1), found(1), Prefilled(1, 2, 3))
    assert (state.phase, effects) == ("prefilling", [Emit(1, Progress(2, 3))])
    state, _ = run(state, Prefilled(1, 3, 3))
    assert state.phase == "generating"
    state, effects = run(state, Text(1, "a", [5]))
    assert effects == [Emit(1, TextDelta("a", [5]))]
    state, _ = run(state, finished(1, [5], held=3))
    assert state.phase == "idle"


@pytest.mark.parametrize("other", [None, Prefilled(1, 3, 3), Wants(1, 8), finished(1, [7], held=3)])
def test_text_alone_needs_no_decision(other: Outcome | None) -> None:
    """Its effects are the machine's, whose state stays as it is; with anything else in a batch the machine is asked."""
    texts: list[Outcome] = [Text(1, "a", [5]), Text(2, "b", [6, 7])]
    if other is not None:
        assert texts_of([*texts, other]) is None
        assert texts_of([other, *texts]) is None
        return
    for state in (IDLE, run(IDLE, submit(1), found(1))[0], run(IDLE, submit(1), found(1), CancelRequest(1))[0]):
        assert transition(state, EngineOutcomes(texts), 0.0) == (state, texts_of(texts))


def test_a_failed_request_leaves_nothing_to_reuse_and_the_next_one_starts() -> None:
    """What the sequence holds after a failure is not known."""
    state, _ = run(IDLE, submit(1), found(1), finished(1, [7], held=3), submit(2), found(2), submit(3))
    state, effects = run(state, Failed(2, FAILURE))
    assert effects == [FailRequest(2, FAILURE), SendJob(Drop(0)), LookUp(submit(3).request)]
    assert generate_of(run(state, found(3))[1]).keep == 0


def test_what_comes_late_of_a_request_that_is_over_is_nothing() -> None:
    """Its successor is not taken for it."""
    state, _ = run(IDLE, submit(1), found(1), finished(1, [7], held=3), submit(2), found(2))
    late: list[Any] = [
        found(1), finished(1, [7], held=3), Failed(1, FAILURE), PromptLogits(1, b"l"), captured(1, 0, 3),
    ]  # fmt: skip
    for event in late:
        assert run(state, event) == (state, [])


def test_a_dead_engine_crashes_the_actor() -> None:
    """So that the supervisor makes a new one."""
    assert run(IDLE, submit(1), Died(FAILURE))[1] == [Crash(FAILURE)]


def test_drills_reach_the_place_they_name() -> None:
    """The actor crashes by itself; the thread gets a job."""
    assert isinstance(run(IDLE, InjectFault("actor"))[1][0], Crash)
    assert run(IDLE, InjectFault("thread"))[1] == [SendJob(Fault("thread"))]
    assert run(IDLE, InjectFault("decode"))[1] == [SendJob(Fault("decode"))]


# --- what is saved and remembered on the way -------------------------------------------------------------------


def test_a_plan_starts_from_what_is_saved() -> None:
    """Ends that are saved already are left out of it."""
    tokens = list(range(60))
    _, effects = run(IDLE, submit(1, tokens), found(1))
    assert generate_of(effects).saves == PLAN
    hit = msgspec.structs.replace(hit_of(tokens, 20), chain=(), length=0)  # pending, not to be had yet
    _, effects = run(IDLE, submit(1, tokens), found(1, hit))
    assert generate_of(effects).saves == msgspec.structs.replace(PLAN, captured_to=20, prompt_ends=(40,))


def test_nothing_is_saved_while_the_cache_is_away() -> None:
    """What is saved already is unknown."""
    assert generate_of(run(IDLE, submit(1), found(1, None))[1]).saves is None
    assert generate_of(run(IDLE, submit(1, plan=None), found(1))[1]).saves is None


def test_a_range_that_was_copied_out_is_handed_to_the_cache() -> None:
    """With all tokens up to its end, those of the reply too; they count as created."""
    state, effects = run(IDLE, submit(1), found(1), save := captured(1, 0, 5, generated=[7, 8]))
    assert effects == [SaveRow(IDENTITY, pack_tokens([1, 2, 3, 7, 8]), save, None)]
    _, effects = run(state, captured(1, 5, 6, payload=None, skipped="no_buffer"), finished(1, [7, 8], held=5))
    assert isinstance(effects[0], Complete)
    assert effects[0].outline.created == 5


@pytest.mark.parametrize(
    ("memory", "n_swa", "kept"),
    [("full", 0, None), ("window", 4, None), ("window", 3, b"l"), ("recurrent", 0, b"l"), ("hybrid", 0, b"l")],
)
def test_the_logits_go_with_a_row_that_cannot_be_cut_back(memory: MemoryKind, n_swa: int, kept: bytes | None) -> None:
    """Only with the row that ends where they belong: at the prompt's end. One as long as the window is not cut."""
    idle = changed(IDLE, limits=changed(IDLE.limits, memory=memory, n_swa=n_swa))
    state, effects = run(idle, submit(1), found(1), PromptLogits(1, b"l"))
    assert effects == [KeepLogits(submit(1).request.key, b"l")]
    for end, logits in ((2, None), (3, kept), (4, None)):
        _, effects = run(state, captured(1, 0, end))
        assert isinstance(effects[0], SaveRow)
        assert effects[0].logits == logits


@pytest.mark.parametrize(("held", "captured_to", "saved_end"), [(4, 4, 4), (4, 3, None), (0, 0, None)])
def test_a_completion_can_be_continued_where_all_of_it_was_copied_out(
    held: int, captured_to: int, saved_end: int | None
) -> None:
    """Its key is that of the last row, which then ends where the sequence does."""
    _, effects = run(IDLE, submit(1), found(1), finished(1, [7, 8], held=held, captured_to=captured_to))
    assert isinstance(effects[0], Complete)
    assert effects[0].saved_end == saved_end


def test_the_answer_says_how_it_went() -> None:
    """What it started from and why not from more, and the seconds of each step."""
    tokens = list(range(60))
    state, _ = run(IDLE, submit(1, tokens), now=10.0)
    state, _ = run(state, found(1, None), now=12.0)
    _, effects = run(state, finished(1, [7], held=60), now=20.0)
    assert isinstance(effects[0], Complete)
    outline = effects[0].outline
    assert (outline.hit, outline.miss_reason, outline.tier) == (CacheHit("cold", 0), "the cache is not running", None)
    assert (outline.lookup_seconds, outline.restore_seconds, outline.restored_bytes) == (2.0, 0.0, 0)
    assert effects[0].started_at == 10.0
