"""Ticks of the worker: who is in a decode, who waits for cells, who leaves and comes back, and who pays for a fault."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.engine import generate
from helpers.worker import Bench

from erllama_py.engine.backend import BackendFailure, Sampling
from erllama_py.engine.jobs import (
    Cancel,
    Capture,
    Captured,
    CapturePlan,
    Drop,
    Failed,
    Fault,
    Finished,
    Fork,
    Forked,
    Grant,
    Park,
    Parked,
    Prefilled,
    Restore,
    Resume,
    Text,
    Wants,
)
from erllama_py.engine.worker import DrillFault

SIZES: dict[str, Any] = {"n_ctx": 1024, "n_batch": 64, "n_ubatch": 32, "n_seq_max": 4}
HOT = Sampling(temperature=1.0, seed=7)  # each draw depends on how many went before
PLAN = CapturePlan(captured_to=0, prompt_ends=(16, 32, 48), interval=16, min_tokens=8)


def prompt(number: int, length: int = 10) -> list[int]:
    """Tokens that no other number's begin with."""
    return [number, *range(1, length)]


def bench(**options: Any) -> Bench:
    return Bench(context_opts=SIZES | options.pop("context_opts", {}), **options)


def alone(tokens: list[int], **fields: Any) -> Finished:
    """What a request comes to that has the model for itself."""
    one = bench()
    one.do(generate(1, tokens, **fields))
    one.run()
    end = one.ended(1)
    assert isinstance(end, Finished)
    return end


# --- who is in a decode ------------------------------------------------------------------------------------------


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


def test_a_decode_that_is_one_requests_alone_is_told_and_no_other() -> None:
    """Only such a one may be aborted for a cancel."""
    many = bench()
    many.do(generate(1, prompt(1), max_new_tokens=2), generate(2, prompt(2), seq_id=1, max_new_tokens=4))
    many.run()
    assert many.alone == [None, None, None, None, 2, None, 2, None]


# --- cells -------------------------------------------------------------------------------------------------------


def test_nobody_decodes_beyond_what_was_granted() -> None:
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


def test_a_prompt_too_is_read_as_far_as_there_are_cells() -> None:
    """And goes on from there."""
    one = bench()
    one.do(generate(1, prompt(1, 50), limit=20, max_new_tokens=1))
    one.run()
    assert one.of(Prefilled) == [Prefilled(1, 20, 50)]
    one.do(Grant(1, 50))
    one.run()
    assert one.of(Prefilled)[1:] == [Prefilled(1, 50, 50)]
    assert one.ended(1).request_id == 1


def test_a_full_cache_costs_only_who_finds_no_cell() -> None:
    """Where the books are wrong after all, the others go on; batches get smaller first."""
    many = bench(context_opts={"n_ctx": 40})
    many.do(generate(1, prompt(1, 20), max_new_tokens=6), generate(2, prompt(2, 30), seq_id=1, max_new_tokens=6))
    many.run()
    failed, end = many.ended(1), many.ended(2)
    assert isinstance(failed, Failed)
    assert failed.error == "ContextOverflow"
    assert isinstance(end, Finished)
    assert end.token_ids == alone(prompt(2, 30), max_new_tokens=6).token_ids


# --- parking -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", range(7))
def test_a_parked_request_goes_on_exactly_where_it_was(after: int) -> None:
    """With its sampler and its text, in another sequence, where the cells are put back from what was copied."""
    whole = alone(prompt(1, 20), max_new_tokens=7, saves=PLAN, sampling=HOT)
    one = bench()
    one.do(generate(1, prompt(1, 20), max_new_tokens=7, saves=PLAN, stream=True, sampling=HOT))
    one.tick(after + 1)
    one.do(Park(1))
    one.run()
    if after == 6:  # it had ended before
        assert one.of(Parked) == []
        return
    (parked,) = one.of(Parked)
    assert (parked.held, parked.token_ids) == (20 + after, whole.token_ids[: after + 1])
    assert one.used() == 0
    one.do(generate(2, prompt(2), max_new_tokens=3))  # somebody else is in its sequence meanwhile
    one.run()
    decoded = sum(count for parts in one.decodes for _, count in parts)
    for copied in one.of(Captured, 1):
        assert copied.payload is not None
        one.do(Restore(request_id=1, seq_id=3, start=copied.start, end=copied.end, payload=copied.payload))
    one.do(Resume(request_id=1, seq_id=3, keep=parked.held, limit=1 << 30))
    one.run()
    end = one.ended(1)
    assert isinstance(end, Finished)
    assert (end.token_ids, end.text, end.held) == (whole.token_ids, whole.text, whole.held)
    assert "".join(text.text for text in one.of(Text, 1)) == whole.text
    assert end.prefill_tokens == 20
    assert sum(count for parts in one.decodes for _, count in parts) - decoded == 26 - parked.held


def test_what_is_lost_of_a_parked_request_is_computed_again() -> None:
    """The same reply; what was sampled is fed, not drawn again."""
    whole = alone(prompt(1, 20), sampling=HOT)
    one = bench()
    one.do(generate(1, prompt(1, 20), sampling=HOT))
    one.tick(4)
    one.do(Park(1))
    one.run()
    one.do(Resume(request_id=1, seq_id=0, keep=0, limit=1 << 30))
    one.run()
    end = one.ended(1)
    assert isinstance(end, Finished)
    assert (end.token_ids, end.text) == (whole.token_ids, whole.text)
    assert end.prefill_tokens == 20 + 23  # the 24th was sampled and had yet to be decoded


def test_parking_copies_one_range_a_tick() -> None:
    """The others go on decoding in between."""
    many = bench(context_opts={"n_batch": 128})
    many.do(generate(1, prompt(1, 100), saves=CapturePlan(
        captured_to=0, prompt_ends=tuple(range(10, 100, 10)), interval=16, min_tokens=8
    )), generate(2, prompt(2), seq_id=1, max_new_tokens=30))  # fmt: skip
    many.tick()
    copied = len(many.of(Captured))
    assert copied == 2  # and no more in a tick for one at work
    many.do(Park(1))
    for number in range(1, 8):
        before = len(many.decodes)
        many.tick()
        assert len(many.of(Captured)) == copied + number
        assert many.decodes[before:] == [[(1, 1)]]
        assert many.of(Parked) == []
    many.tick()
    assert many.of(Parked) == [Parked(request_id=1, held=100, token_ids=many.of(Parked)[0].token_ids)]
    assert [(one.start, one.end) for one in many.of(Captured)] == [(n, n + 10) for n in range(0, 100, 10)]
    assert many.of(Captured)[-1].reason == "evict"


def test_a_request_that_saves_nothing_parks_at_once() -> None:
    """Its tokens are all that is left of it."""
    one = bench()
    one.do(generate(1, prompt(1)))
    one.tick(2)
    one.do(Park(1))
    one.tick()
    assert one.of(Parked)[0].held == 11
    assert one.of(Captured) == []


def test_parking_without_memory_for_copies_still_ends() -> None:
    """What cannot be copied is computed again later."""
    one = bench(nbytes=1)
    one.do(generate(1, prompt(1, 60), saves=PLAN))
    one.tick()
    one.do(Park(1))
    one.run()
    assert len(one.of(Parked)) == 1
    assert {copied.skipped for copied in one.of(Captured)} == {"no_buffer"}


@pytest.mark.parametrize("parked", [False, True])
def test_a_cancel_ends_a_request_while_it_is_parked_or_on_its_way_out(parked: bool) -> None:
    """With all that it had so far; it is answered once."""
    one = bench()
    one.do(generate(1, prompt(1, 60), saves=PLAN))
    one.tick(2)
    one.do(Park(1))
    if parked:
        one.run()
    one.do(Cancel(1))
    one.run()
    end = one.ended(1)
    assert isinstance(end, Finished)
    assert (end.reason, len(end.token_ids), len(one.of(Parked))) == ("cancelled", 2, int(parked))
    assert end.held == (0 if parked else 61)
    one.do(Resume(request_id=1, seq_id=0, keep=0, limit=99))  # it crossed the cancel
    one.run()
    assert len(one.of(Finished)) == 1


def test_jobs_for_those_who_are_over_do_nothing() -> None:
    """Messages cross each other."""
    one = bench()
    one.do(generate(1, prompt(1), max_new_tokens=1))
    one.run()
    seen = list(one.outcomes)
    one.do(Park(1), Grant(1, 99), Cancel(1), Resume(request_id=1, seq_id=0, keep=0, limit=9), Park(7), Cancel(7))
    one.run()
    assert one.outcomes == seen


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
    """Nor one that somebody is at work in by then."""
    many = bench()
    forks = (Fork(request_id=2, source=0, seq_id=1, length=90), Fork(request_id=3, source=0, seq_id=2, length=90))
    many.do(generate(1, prompt(1, 100), max_new_tokens=1), *forks)
    many.tick()
    many.do(Drop(1), generate(3, prompt(3), seq_id=2))
    many.run()
    assert many.of(Forked) == []
    assert many.backend.positions(1) == (-1, -1)
    assert isinstance(many.ended(3), Finished)


def test_what_is_behind_a_position_can_be_dropped() -> None:
    """The beginning stays, for whoever goes on from it."""
    one = bench()
    one.do(generate(1, prompt(1, 30), max_new_tokens=1))
    one.run()
    one.do(Drop(0, 12))
    assert (one.backend.positions(0), one.used()) == ((0, 11), 12)


# --- faults ------------------------------------------------------------------------------------------------------


def test_who_breaks_a_decode_fails_alone() -> None:
    """The others are decoded without it, in the same tick, and give the replies that they give alone."""
    many = bench()
    many.do(*(generate(n, prompt(n), seq_id=n - 1) for n in (1, 2, 3)))
    many.tick(2)
    many.recorder.broken.add(1)
    many.run()
    failed = many.ended(2)
    assert isinstance(failed, Failed)
    assert (failed.error, "the sequence is broken" in failed.problem) == ("DecodeFailed", True)
    for n in (1, 3):
        end = many.ended(n)
        assert isinstance(end, Finished)
        assert end.token_ids == alone(prompt(n)).token_ids


def test_when_all_fail_the_engine_does() -> None:
    """Nobody is to blame; the context is broken, and its supervisor knows what to do."""
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
    assert failed.error == "InvalidGrammar"
    assert isinstance(many.ended(1), Finished)
    many.do(generate(3, prompt(3), seq_id=1))
    many.run()
    assert isinstance(many.ended(3), Finished)


def test_a_copy_of_a_sequence_at_rest_does_not_change_it() -> None:
    """It is answered under the ticket that it was asked with."""
    one = bench()
    one.do(generate(1, prompt(1, 30), max_new_tokens=1))
    one.run()
    one.do(Capture(request_id=-1, seq_id=0, start=0, end=30, reason="evict"))
    one.run()
    (copied,) = one.of(Captured, -1)
    assert (copied.start, copied.end, copied.payload is not None) == (0, 30, True)
    assert one.backend.positions(0) == (0, 29)
