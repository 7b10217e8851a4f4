"""Ticks of the worker: which requests are in a decode, wait for cells, share them, or fail for a fault."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.engine import generate
from helpers.worker import alone, bench, prompt
from hypothesis import given, settings
from hypothesis import strategies as st

from erllama_py.engine.backend import BackendFailure
from erllama_py.engine.failure import failure_of
from erllama_py.engine.jobs import (
    Cancel,
    Capture,
    Captured,
    CapturePlan,
    DrillFault,
    Drop,
    Failed,
    Fault,
    Finished,
    Fork,
    Forked,
    Grant,
    Park,
    Prefilled,
    Resume,
    Wants,
)
from erllama_py.engine.tick_plan import PATIENCE
from erllama_py.errors import SamplerFailed
from erllama_py.options.model import SchedulerOpts
from erllama_py.options.sampling import Sampling

# --- what is in a decode -----------------------------------------------------------------------------------------


def test_all_that_generate_are_rows_of_one_decode() -> None:
    """Four requests of eight tokens each: as many decodes as one of them needs."""
    many = bench()
    many.do(*(generate(n, prompt(n), seq_id=n - 1) for n in (1, 2, 3, 4)))
    many.run()
    assert len(many.decodes) == 8
    assert many.decodes[1:] == [[(0, 1), (1, 1), (2, 1), (3, 1)]] * 7
    for n in (1, 2, 3, 4):
        end = many.ended(n)
        assert isinstance(end, Finished)
        assert (end.token_ids, end.text) == (alone(prompt(n)).token_ids, alone(prompt(n)).text)


def test_rows_come_first_and_prompts_in_slices_that_streams_wait_for() -> None:
    """While one generates, a prompt gets `prefill_chunk_size` tokens a decode; alone it had the whole batch."""
    many = bench()
    many.do(generate(1, prompt(1), max_new_tokens=6))
    many.tick()
    many.do(generate(2, prompt(2, 100), seq_id=1, max_new_tokens=1))
    many.run()
    assert many.decodes == [[(0, 10)], *[[(0, 1), (1, 32)]] * 3, [(0, 1), (1, 4)], [(0, 1)]]
    again = bench()
    again.do(generate(1, prompt(2, 100), max_new_tokens=1))
    again.run()
    assert again.decodes == [[(0, 64)], [(0, 36)]]


def test_a_decode_for_one_request_alone_is_announced_and_no_other() -> None:
    """Only such a one may be aborted for a cancel."""
    many = bench()
    many.do(generate(1, prompt(1), max_new_tokens=2), generate(2, prompt(2), seq_id=1, max_new_tokens=4))
    many.run()
    assert many.alone == [None, None, None, None, 2, None, 2, None]


@given(
    st.lists(st.tuples(st.integers(1, 150), st.integers(1, 12), st.integers(0, 9)), min_size=1, max_size=6),
    st.integers(6, 40),
    st.sampled_from([1, 5, 32, 64]),
)
@settings(max_examples=25, deadline=None)
def test_no_decode_is_too_large_and_no_stream_is_passed_over(
    asked: list[tuple[int, int, int]], n_batch: int, chunk: int
) -> None:
    """Whichever comes at whatever tick: each decode has a row of each that generates, and all replies are as alone."""
    context = {"n_batch": n_batch, "n_ubatch": min(n_batch, 16), "n_seq_max": 6}
    many = bench(context_opts=context, scheduler=SchedulerOpts(prefill_chunk_size=chunk))
    for n, (length, reply, ticks) in enumerate(asked):
        many.do(generate(n, prompt(n, length), seq_id=n, max_new_tokens=reply))
        many.tick(ticks)
    many.run()
    assert all(sum(count for _, count in parts) <= n_batch for parts in many.decodes)
    for n, (length, reply, _) in enumerate(asked):
        end = many.ended(n)
        assert isinstance(end, Finished)
        assert end.token_ids == alone(prompt(n, length), max_new_tokens=reply).token_ids
        turns = [turn for turn, parts in enumerate(many.decodes) if n in dict(parts)]
        rows = turns[-1 - end.decodes :]  # the decode that ended its prompt, and then its own tokens
        assert rows == list(range(rows[0], rows[0] + end.decodes + 1))


# --- cells -------------------------------------------------------------------------------------------------------


def test_no_request_decodes_beyond_what_was_granted() -> None:
    """It asks ahead, once, and stands still at its limit until there is a grant."""
    one = bench()
    one.do(generate(1, prompt(1), limit=12, max_new_tokens=8))
    one.run()
    assert one.of(Wants) == [Wants(1, 12)]
    assert (one.backend.positions(0), one.worker.busy) == ((0, 11), False)
    one.do(Grant(1, 14))
    one.run()
    assert one.of(Wants) == [Wants(1, 12), Wants(1, 14)]
    assert one.backend.positions(0) == (0, 13)
    one.do(Grant(1, 17))  # the last token is never decoded
    one.run()
    assert len(one.of(Wants)) == 2
    end = one.ended(1)
    assert isinstance(end, Finished)
    assert (end.token_ids, end.held) == (alone(prompt(1)).token_ids, 17)


def test_a_request_that_gets_its_grant_in_time_never_stalls() -> None:
    """More cells are asked for while there are some left: the answer may take some ticks."""
    one = bench()
    one.do(generate(1, prompt(1), limit=40, max_new_tokens=60))
    while not one.of(Wants):
        one.tick()
    before = len(one.decodes)
    one.tick(8)
    assert len(one.decodes) == before + 8
    one.do(Grant(1, 70))
    one.tick(8)
    assert len(one.decodes) == before + 16


def test_a_prompt_too_is_read_as_far_as_there_are_cells() -> None:
    """And continues from there."""
    one = bench()
    one.do(generate(1, prompt(1, 50), limit=20, max_new_tokens=1))
    one.run()
    assert one.of(Prefilled) == [Prefilled(1, 20, 50)]
    one.do(Grant(1, 50))
    one.run()
    assert one.of(Prefilled)[1:] == [Prefilled(1, 50, 50)]
    assert one.ended(1).request_id == 1


def test_a_full_cache_fails_only_the_request_that_finds_no_cell() -> None:
    """Where the books are wrong after all, the others go on; batches get smaller first."""
    many = bench(context_opts={"n_ctx": 40})
    many.do(generate(1, prompt(1, 20), max_new_tokens=6), generate(2, prompt(2, 30), seq_id=1, max_new_tokens=6))
    many.run()
    failed, end = many.ended(1), many.ended(2)
    assert isinstance(failed, Failed)
    assert failed.failure.kind == "ContextOverflow"
    assert isinstance(end, Finished)
    assert end.token_ids == alone(prompt(2, 30), max_new_tokens=6).token_ids


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_jobs_for_finished_requests_do_nothing() -> None:
    """Messages cross each other."""
    one = bench()
    one.do(generate(1, prompt(1), max_new_tokens=1))
    one.run()
    seen = list(one.outcomes)
    one.do(Park(1), Grant(1, 99), Cancel(1), Resume(request_id=1, seq_id=0, keep=0, limit=9), Park(7), Cancel(7))
    one.run()
    assert one.outcomes == seen


CANCELLED_WHEN: dict[str, tuple[int, dict[str, Any], int, int]] = {
    # Length of the prompt, other fields of the request, ticks before the cancel; what the sequence then holds.
    "before its first tick": (10, {}, 0, 0),
    "it prefills": (200, {}, 3, 64 + 2 * 32),  # a whole batch, and then a chunk a tick beside a stream
    "it generates": (10, {}, 4, 13),
    "it waits for cells": (10, {"limit": 12}, 6, 12),
}


@pytest.mark.parametrize("when", CANCELLED_WHEN)
def test_a_cancel_takes_effect_with_the_next_tick(when: str) -> None:
    """It takes part in no decode any more, keeps what it has until that is dropped, and no other is affected."""
    length, fields, ticks, held = CANCELLED_WHEN[when]
    many = bench(context_opts={"n_batch": 74})
    many.do(generate(2, prompt(2), seq_id=1, max_new_tokens=12))
    many.do(generate(1, prompt(1, length), **({"max_new_tokens": 20} | fields)))
    many.tick(ticks)
    many.do(Cancel(1))
    before = len(many.decodes)
    many.tick()
    end = many.ended(1)
    assert isinstance(end, Finished)
    assert (end.reason, end.held) == ("cancelled", held)
    assert all(seq_id != 0 for parts in many.decodes[before:] for seq_id, _ in parts)
    others = many.backend.positions(1)[1] + 1
    assert many.used() == held + others
    many.do(Drop(0))
    assert many.used() == others
    many.run()
    other = many.ended(2)
    assert isinstance(other, Finished)
    assert other.token_ids == alone(prompt(2), max_new_tokens=12).token_ids


# --- sharing -----------------------------------------------------------------------------------------------------


def test_a_fork_is_done_when_its_source_has_come_so_far() -> None:
    """Not before; what is shared is not computed again, and takes no cells."""
    many = bench()
    shared = prompt(1, 100)
    many.do(generate(1, shared, max_new_tokens=4), Fork(request_id=2, source=0, seq_id=1, length=90))
    many.tick()
    assert (many.of(Forked), many.backend.positions(0)) == ([], (0, 63))
    many.tick()
    assert many.of(Forked) == [Forked(2, 90)]
    assert many.used() == 100
    other = [*shared[:90], 7, 8, 9]
    many.do(generate(2, other, seq_id=1, keep=90, max_new_tokens=4))
    many.run()
    end = many.ended(2)
    assert isinstance(end, Finished)
    assert (end.prefill_tokens, end.token_ids) == (3, alone(other, max_new_tokens=4).token_ids)


@pytest.mark.parametrize("leaves", ["is cancelled", "is parked"])
def test_a_fork_gets_what_there_is_when_its_source_leaves(leaves: str) -> None:
    """The cells that a cancelled one has computed; nothing of one whose cells are gone."""
    many = bench()
    many.do(generate(1, prompt(1, 100)), Fork(request_id=2, source=0, seq_id=1, length=90))
    many.tick()
    many.do(Cancel(1) if leaves == "is cancelled" else Park(1))
    many.run()
    assert many.of(Forked) == [Forked(2, 64 if leaves == "is cancelled" else 0)]


def test_a_sequence_that_was_given_up_gets_no_share() -> None:
    """Nor one that another request is at work in by then."""
    many = bench()
    forks = (Fork(request_id=2, source=0, seq_id=1, length=90), Fork(request_id=3, source=0, seq_id=2, length=90))
    many.do(generate(1, prompt(1, 100), max_new_tokens=1), *forks)
    many.tick()
    many.do(Drop(1), generate(3, prompt(3), seq_id=2))
    many.run()
    assert many.of(Forked) == []
    assert many.backend.positions(1) == (-1, -1)
    assert isinstance(many.ended(3), Finished)


def test_what_comes_after_a_position_can_be_dropped() -> None:
    """The beginning stays, for whatever extends it."""
    one = bench()
    one.do(generate(1, prompt(1, 30), max_new_tokens=1))
    one.run()
    one.do(Drop(0, 12))
    assert (one.backend.positions(0), one.used()) == ((0, 11), 12)


# --- faults ------------------------------------------------------------------------------------------------------


def test_a_request_that_breaks_a_decode_fails_alone() -> None:
    """The others are decoded without it, in the same tick, and give the replies that they give alone."""
    many = bench()
    many.do(*(generate(n, prompt(n), seq_id=n - 1) for n in (1, 2, 3)))
    many.tick(2)
    many.recorder.broken.add(1)
    many.run()
    failed = many.ended(2)
    assert isinstance(failed, Failed)
    assert (failed.failure.kind, "the sequence is broken" in failed.failure.problem) == ("DecodeFailed", True)
    for n in (1, 3):
        end = many.ended(n)
        assert isinstance(end, Finished)
        assert end.token_ids == alone(prompt(n)).token_ids


def test_when_all_fail_the_engine_does() -> None:
    """No request is the culprit; the context is broken, and its supervisor knows what to do."""
    many = bench()
    many.do(*(generate(n, prompt(n), seq_id=n - 1) for n in (1, 2)))
    many.recorder.broken |= {0, 1}
    with pytest.raises(BackendFailure, match="broken"):
        many.tick()


@pytest.mark.parametrize("where", ["thread", "decode"])
def test_a_drill_is_a_fault(where: Any) -> None:
    """Of the thread at once, of the decode when there is one."""
    one = bench()
    one.do(generate(1, prompt(1)))

    def fail() -> None:
        one.do(Fault(where))
        assert where == "decode"
        one.tick()

    with pytest.raises(DrillFault if where == "thread" else BackendFailure, match="told to fail"):
        fail()


def test_a_bad_grammar_does_not_touch_the_others() -> None:
    """It is refused before anything is computed, and its sequence can be used again."""
    many = bench()
    many.do(generate(1, prompt(1)), generate(2, prompt(2), seq_id=1, sampling=Sampling(grammar="no")))
    many.run()
    failed = many.ended(2)
    assert isinstance(failed, Failed)
    assert failed.failure.kind == "InvalidGrammar"
    assert isinstance(many.ended(1), Finished)
    many.do(generate(3, prompt(3), seq_id=1))
    many.run()
    assert isinstance(many.ended(3), Finished)


@pytest.mark.parametrize("drawn", [0, 2])
def test_a_sampler_that_fails_does_not_touch_the_others(drawn: int) -> None:
    """At its first token or later; its sampler is freed, and so are its cells."""
    many = bench()
    many.do(generate(1, prompt(1)))
    sampler = many.script(generate(2, prompt(2), seq_id=1), [*b"ab"[:drawn], SamplerFailed("no numbers")])
    many.tick(drawn + 1)
    computed = len(prompt(2)) + drawn
    assert many.of(Failed) == [Failed(2, failure_of(SamplerFailed("no numbers")), computed)]
    assert (sampler.closed, many.backend.positions(1)) == (True, (-1, -1))
    many.run()
    end = many.ended(1)
    assert isinstance(end, Finished)
    assert end.token_ids == alone(prompt(1)).token_ids


def test_a_copy_of_an_idle_sequence_does_not_change_it() -> None:
    """It is answered under the ticket that it was asked with."""
    one = bench()
    one.do(generate(1, prompt(1, 30), max_new_tokens=1))
    one.run()
    one.do(Capture(request_id=-1, seq_id=0, start=0, end=30, reason="evict"))
    one.run()
    (copied,) = one.of(Captured, -1)
    assert (copied.start, copied.end, copied.payload is not None) == (0, 30, True)
    assert one.backend.positions(0) == (0, 29)


def test_what_is_left_of_a_long_request_is_copied_between_decodes() -> None:
    """Two ranges a tick, while another goes on; it ends with the last of them."""
    many = bench(context_opts={"n_ctx": 4096, "n_batch": 4096})
    late = CapturePlan(captured_to=0, prompt_ends=(), interval=10_000, min_tokens=8)
    many.do(generate(1, prompt(1), max_new_tokens=30), generate(2, prompt(2, 2600), seq_id=1, limit=2600, saves=late))
    many.tick(1)
    many.do(Cancel(2))
    for ends in ([512, 1024], [1536, 2048]):
        many.tick()
        assert [one.end for one in many.of(Captured, 2)][-2:] == ends
        assert many.of(Finished) == []
    many.tick()
    assert [one.end for one in many.of(Captured, 2)][4:] == [2560, 2600]
    assert many.of(Finished, 2)[0].captured_to == 2600
    assert len(many.decodes) == 4


def test_the_time_of_a_copy_is_taken_from_the_prompts_of_the_next_decode() -> None:
    """A decode costs 10 ms and 1 for each token; a stream may wait 100. Copying takes 30 of them, then 500."""
    many = bench(scheduler=SchedulerOpts(max_stall_ms=100), context_opts={"n_ctx": 4096, "n_batch": 512})
    saves = CapturePlan(captured_to=0, prompt_ends=(640, 1280), interval=10_000, min_tokens=8)
    many.do(generate(1, prompt(1), max_new_tokens=2000))
    many.tick(20)
    many.do(generate(2, prompt(2, 2000), seq_id=1, saves=saves))
    slices: list[tuple[int, int]] = []  # how many ranges were copied before, and the tokens of the prompt
    while not many.of(Finished, 2):
        copied = len(many.of(Captured, 2))
        many.recorder.copy_seconds = 0.03 if not copied else 0.5
        many.tick()
        slices.append((copied, dict(many.decodes[-1]).get(1, 0)))
    firsts = [next(tokens for before, tokens in slices if before == copied) for copied in (1, 2)]
    # One micro-batch of 59 tokens that fit into what is left; then as many as take no longer than the row's 11 ms.
    assert firsts[0] == 32
    assert firsts[1] in (10, 11)
    assert max(tokens for _, tokens in slices) >= 64


def test_a_prompt_that_was_passed_over_for_long_is_read_too() -> None:
    """Beside a stream and the prompt of a higher priority: one slice when it has waited, and then it waits again."""
    many = bench(context_opts={"n_ctx": 8192})
    many.do(generate(1, prompt(1), max_new_tokens=100))
    many.tick()
    many.do(generate(2, prompt(2, 2000), seq_id=1, priority=1), generate(3, prompt(3, 2000), seq_id=2))
    many.tick(3 * (PATIENCE + 1))
    served = [number for number, parts in enumerate(many.decodes) if any(seq_id == 2 for seq_id, _ in parts)]
    assert served == [PATIENCE + 1, 2 * (PATIENCE + 1), 3 * (PATIENCE + 1)]
    assert all(parts[0] == (0, 1) for parts in many.decodes[1:])
