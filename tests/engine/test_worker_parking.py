"""Parking on the thread: a request leaves its sequence, another one uses it, and the request goes on exactly where it
was."""

from __future__ import annotations

import pytest
from helpers.engine import generate
from helpers.worker import alone, bench, prompt

from erllama_py.engine.jobs import (
    Cancel,
    Captured,
    CapturePlan,
    Finished,
    Park,
    Parked,
    Prefilled,
    Restore,
    Resume,
    Resumed,
    Text,
)
from erllama_py.options.model import SchedulerOpts
from erllama_py.options.sampling import Sampling

HOT = Sampling(temperature=1.0, seed=7)  # each draw depends on how many went before
PLAN = CapturePlan(captured_to=0, prompt_ends=(16, 32, 48), interval=16, min_tokens=8)


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
    one.do(generate(2, prompt(2), max_new_tokens=3))  # another request is in its sequence meanwhile
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


@pytest.mark.parametrize("sampled", [0, 3])
def test_a_request_is_back_when_it_has_come_further_than_it_was(sampled: int) -> None:
    """Reported once, and not while it computes again what was lost; if it is parked before that, not at all."""
    one = bench(context_opts={"n_batch": 32})
    one.do(generate(1, prompt(1, 100)))
    one.tick(1 if not sampled else 4 + sampled)
    one.do(Park(1))
    one.run()
    assert one.of(Resumed) == []
    one.do(Resume(request_id=1, seq_id=0, keep=0, limit=1 << 30))
    one.tick(1)
    assert one.of(Resumed) == []  # it stands where it was, or before
    one.do(Park(1))
    one.run()
    one.do(Resume(request_id=1, seq_id=0, keep=0, limit=1 << 30))
    one.run()
    assert one.of(Resumed) == [Resumed(1)]
    assert isinstance(one.ended(1), Finished)


def test_a_park_may_cut_a_character_or_a_stop_sequence() -> None:
    """Parked after every single token: the text comes out whole, up to the stop sequence, and ends there."""
    one, said = bench(), "né日本 x STOP and more".encode()
    job = generate(1, prompt(1), max_new_tokens=100, stop_sequences=("x STOP", "x STILL"), stream=True)
    sampler = one.script(job, said)
    one.tick()
    while not one.of(Finished):
        one.do(Park(1))
        one.run()
        one.do(Resume(request_id=1, seq_id=len(one.of(Parked)) % 4, keep=0, limit=1 << 30))
        one.tick()
    end = one.ended(1)
    assert isinstance(end, Finished)
    assert (end.text, end.reason, end.stop_sequence) == ("né日本 ", "stop", "x STOP")
    assert "".join(text.text for text in one.of(Text)) == end.text
    assert bytes(end.token_ids) == said[: said.index(b" and")]
    assert len(one.of(Parked)) == len(end.token_ids) - 1
    assert sampler.closed


def test_parking_copies_one_range_a_tick() -> None:
    """The others go on decoding in between."""
    many = bench(context_opts={"n_batch": 128})
    many.do(generate(1, prompt(1, 100), saves=CapturePlan(
        captured_to=0, prompt_ends=tuple(range(10, 100, 10)), interval=16, min_tokens=8
    )), generate(2, prompt(2), seq_id=1, max_new_tokens=30))  # fmt: skip
    many.tick()
    many.do(Park(1))
    for number in range(1, 10):
        before = len(many.decodes)
        many.tick()
        assert len(many.of(Captured)) == number
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
    assert {copied.skipped for copied in one.of(Captured)} == {"too_large"}


@pytest.mark.parametrize("parked", [False, True])
def test_a_cancel_ends_a_request_while_it_is_parked_or_being_parked(parked: bool) -> None:
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


@pytest.mark.parametrize("ends", ["by itself", "cancelled"])
@pytest.mark.parametrize("ranges", [1, 4, 6, 7])
def test_a_finished_request_is_not_parked(ends: str, ranges: int) -> None:
    """However many ticks the copies of its end take while others go on, and though a park has come: it says how it
    ended."""
    many = bench(scheduler=SchedulerOpts(prefill_chunk_size=500), context_opts={"n_batch": 512})
    saves = CapturePlan(captured_to=0, prompt_ends=tuple(range(10, 10 * ranges + 1, 10)), interval=1000, min_tokens=8)
    many.do(generate(2, prompt(2), seq_id=1, max_new_tokens=60))
    many.tick()
    most = 1 if ends == "by itself" else 20
    many.do(generate(1, prompt(1, 10 * ranges + 5), saves=saves, max_new_tokens=most))
    many.tick()
    many.do(Park(1))
    if ends == "cancelled":
        many.do(Cancel(1))
    many.run()
    end = many.ended(1)
    assert isinstance(end, Finished)
    assert end.reason == ("length" if ends == "by itself" else "cancelled")
    assert many.of(Parked) == []


def test_a_request_cancelled_while_parked_has_no_sequence() -> None:
    """The one it had belongs to another request by then, and its end touches nothing there."""
    many = bench()
    many.do(generate(1, prompt(1)))
    many.tick(2)
    many.do(Park(1))
    many.run()
    many.do(generate(2, prompt(2)))
    many.tick(2)
    many.do(Cancel(1))
    assert [running.seq_id for running in many.worker._running.values()] == [0, -1]
    many.run()
    assert isinstance(many.ended(2), Finished)


def test_what_is_computed_again_is_no_progress() -> None:
    """Of a prompt that is parked half way: each step is reported once, and none goes back."""
    one = bench()
    one.do(generate(1, prompt(1, 300), max_new_tokens=2))
    one.tick(3)
    one.do(Park(1))
    one.run()
    one.do(Resume(request_id=1, seq_id=0, keep=0, limit=1 << 30))
    one.run()
    assert [told.done for told in one.of(Prefilled)] == [64, 128, 192, 256, 300]
