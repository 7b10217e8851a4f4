"""A decode that stands still is noticed, and one that is merely slow on a slow machine is not."""

from __future__ import annotations

import pytest
from helpers.engine import generate
from helpers.worker import bench, prompt
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.heartbeat import Heart
from erllama_py.engine.pace import LEAST_SECONDS, TIMES_SLOWEST, Pace, observed, patience

seconds = st.floats(1e-4, 1e4)
tokens = st.integers(1, 4096)
noise = st.floats(1.0, 2.0)


@given(seconds, st.floats(0, 100), st.lists(st.tuples(tokens, noise), min_size=2, max_size=30))
def test_no_honest_decode_is_overdue(each: float, a_token: float, decodes: list[tuple[int, float]]) -> None:
    """However slow the machine: so much for each decode, so much for each token, and up to twice that by chance."""
    pace = Pace()
    for number, (count, chance) in enumerate(decodes):
        took = (each + a_token * count) * chance
        assert number == 0 or took <= patience(pace, count)
        pace = observed(pace, count, took)


@given(st.lists(st.tuples(tokens, seconds), min_size=1, max_size=30), tokens)
def test_every_decode_has_an_end_of_patience(decodes: list[tuple[int, float]], count: int) -> None:
    """It grows with nothing but what decodes have taken."""
    pace, longest, dearest = Pace(), 0.0, 0.0
    for tokens_, took in decodes:
        pace, longest, dearest = observed(pace, tokens_, took), max(longest, took), max(dearest, took / tokens_)
    assert LEAST_SECONDS <= patience(pace, count) <= max(LEAST_SECONDS, 10 * longest, 3 * dearest * count)


@given(tokens, seconds, seconds)
def test_what_stood_still_once_is_forgotten(count: int, still: float, usual: float) -> None:
    """It excuses no decode of much later."""
    pace = observed(Pace(), count, still + usual)
    for _ in range(2000):
        pace = observed(pace, count, usual)
    assert patience(pace, count) == pytest.approx(max(LEAST_SECONDS, TIMES_SLOWEST * usual))


def test_five_seconds_are_normal_where_they_are() -> None:
    """A decode of a token that takes so long is not reported; ten times as long is."""
    pace = Pace()
    for _ in range(3):
        pace = observed(pace, 1, 5.0)
    assert patience(pace, 1) == 50.0


def test_the_first_decode_of_a_long_prompt_may_take_minutes() -> None:
    """Nothing is known of the machine yet, and its disk may be slow."""
    assert patience(Pace(), 2048) > 1800
    assert 60 < patience(Pace(), 1) < 120


class Watch:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def heart_of(*decodes: tuple[int, float]) -> tuple[Heart, Watch]:
    """A heart that has seen decodes of so many tokens, in so many seconds."""
    watch = Watch()
    heart = Heart(watch)
    for count, took in decodes:
        heart.begins(count)
        watch.now += took
        heart.ends(True)
    return heart, watch


def test_only_the_decode_under_way_is_overdue() -> None:
    """Before one, and after it, there is nothing to report; what is not done counts for nothing."""
    heart, watch = heart_of((1, 2.0))
    watch.now += 1000
    assert heart.overdue() is None
    heart.begins(1)
    watch.now += 20
    assert heart.overdue() is None
    watch.now += 1
    assert heart.overdue() == 21
    heart.ends(False)
    assert heart.overdue() is None
    heart.begins(1)
    watch.now += 21
    assert heart.overdue() == 21


def test_a_decode_that_fails_is_over() -> None:
    """The heart does not stand still with it."""
    one = bench()
    one.recorder.broken = {0}
    one.do(generate(1, prompt(1)), generate(2, prompt(2), seq_id=1))
    one.tick()
    one.recorder.now += 10_000
    assert one.worker.heart.overdue() is None
