"""A worker whose copies take long: it leaves them, keeps decoding, and its rows never have holes. Times are a clock's
that decodes and copies move."""

from __future__ import annotations

import pytest
from helpers.engine import generate
from helpers.worker import Bench, bench, prompt

from erllama_py.engine.jobs import Capture, Captured, CapturePlan, Drop, Finished, Park, Parked
from erllama_py.engine.rates import CREDIT, GRACE, saves

pytestmark = pytest.mark.measured_copies

PLAN = CapturePlan(captured_to=0, prompt_ends=tuple(range(32, 961, 32)), interval=32, min_tokens=8)


def slow(seconds: float = 0.3, **options: object) -> Bench:
    """Copies that take `seconds`, of any length; a token takes a millisecond."""
    one = bench(copies_count=True, **options)
    one.recorder.copy_seconds = seconds
    return one


def ask(one: Bench, request_id: int, *, keep: bool = False) -> None:
    """A request that has all cells for itself; with `keep` they stay in sequence 1."""
    one.do(generate(request_id, prompt(request_id, 960), seq_id=1, saves=PLAN))
    one.run()
    assert isinstance(one.ended(request_id), Finished)
    if not keep:
        one.do(Drop(1))


def copied(one: Bench, request_id: int | None = None) -> list[Captured]:
    return [captured for captured in one.of(Captured, request_id) if captured.payload is not None]


def test_a_prompt_is_not_held_up_by_copies_that_are_slower_than_it() -> None:
    """All of its thirty rows would take nine seconds, computing it takes one: it loses half a second to learn so."""
    one = slow()
    ask(one, 1)
    assert sum(captured.seconds for captured in copied(one)) <= 2 * GRACE
    left = [captured for captured in one.of(Captured, 1) if captured.skipped == "slow"]
    assert len(left) > 20


def test_later_prompts_lose_a_small_share_to_copies() -> None:
    """A thirty-second part of all computing time pays for tries, and no more is spent."""
    one = slow()
    for request_id in range(1, 21):
        ask(one, request_id)
    assert copied(one, 2) == []
    copying = sum(captured.seconds for captured in copied(one))
    assert 0.3 < copying <= 2 * GRACE + (one.recorder.now - copying) * CREDIT


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.1, 0.3])
def test_rows_follow_each_other_without_holes(seconds: float) -> None:
    """An end that was passed over makes the next row longer."""
    one = slow(seconds)
    for request_id in range(1, 6):
        ask(one, request_id)
        end = 0
        for captured in copied(one, request_id):
            assert captured.start == end
            end = captured.end
            assert end % 32 == 0 or end >= 960


def test_short_copies_are_all_made() -> None:
    """Where a row takes a quarter of its time at most."""
    one = slow(0.005)
    ask(one, 1)
    assert [captured.end for captured in copied(one)][:30] == list(PLAN.prompt_ends)


def test_they_come_back_when_copies_have_become_fast() -> None:
    """Whatever was busy is gone: a try finds it out."""
    one = slow(2.0)
    ask(one, 1)
    assert not saves(one.cells.rates, 32)
    one.recorder.copy_seconds = 0.0005
    one.recorder.token_seconds = 0.02  # seconds of computing soon pay for a try
    for request_id in range(2, 14):
        ask(one, request_id)
    assert saves(one.cells.rates, 32)
    assert len(copied(one, 13)) >= 30


def test_a_request_is_parked_without_copies_too() -> None:
    """It leaves its sequence, and computes again what it lacks when it is back."""
    one = slow(5.0)
    ask(one, 1)
    one.do(generate(2, prompt(2, 200), seq_id=2, saves=PLAN))
    one.tick(2)
    one.do(Park(2))
    one.run()
    assert one.of(Parked, 2)
    assert copied(one, 2) == []


def test_copies_that_a_job_asks_for_are_made_and_measured() -> None:
    """The actor's machine has decided about them by the same rules."""
    one = slow(5.0)
    ask(one, 1, keep=True)
    one.do(Capture(request_id=-1, seq_id=1, start=0, end=512, reason="evict"))
    one.run()
    assert [captured.end for captured in copied(one, -1)] == [512]
    tokens, seconds = one.cells.rates.out[-1]
    assert tokens == 512
    assert seconds == pytest.approx(5.0)
