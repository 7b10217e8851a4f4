"""The laws of token buckets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.serve.access.buckets import Bucket, Rate, filled, full, taken, wait

rates = st.builds(Rate, st.integers(1, 10**6).map(float), st.sampled_from([1.0, 60.0, 86_400.0]))
moments = st.floats(0, 10**7)
amounts = st.integers(0, 10**7)


@given(rates, moments, st.lists(st.tuples(st.floats(0, 10**5), st.integers(1, 5)), max_size=40))
def test_no_more_is_let_in_than_is_allowed(rate: Rate, begin: float, asks: list[tuple[float, int]]) -> None:
    """Over any time: what there is at the beginning, and what the time brings."""
    bucket, now, got = full(rate, begin), begin, 0
    for later, amount in asks:
        now += later
        if amount <= rate.amount and wait(bucket, rate, now, amount) == 0:
            bucket, got = taken(bucket, rate, now, amount), got + amount
    assert got <= rate.amount + (now - begin) * rate.amount / rate.seconds + 1e-3


@given(rates, moments, amounts)
def test_the_wait_is_true(rate: Rate, now: float, amount: int) -> None:
    """After it there is enough, and a second earlier there is not."""
    bucket = taken(full(rate, now), rate, now, amount)
    seconds = wait(bucket, rate, now)
    assert wait(bucket, rate, now + seconds) == 0
    if seconds > 1:
        assert wait(bucket, rate, now + seconds - 1) > 0


@given(rates, moments, amounts, moments)
def test_a_bucket_holds_no_more_than_its_rate(rate: Rate, now: float, amount: int, later: float) -> None:
    """However long nothing is taken; and never goes back in time."""
    bucket = filled(taken(full(rate, now), rate, now, amount), rate, later)
    assert bucket.level <= rate.amount
    assert bucket.at >= now


@given(rates, moments, st.floats(0, 1000), st.floats(0, 1000))
def test_it_does_not_matter_how_often_it_is_looked_at(rate: Rate, now: float, one: float, two: float) -> None:
    """Filling in two steps is filling in one."""
    bucket = taken(full(rate, now), rate, now, rate.amount * 2)
    at_once = filled(bucket, rate, now + one + two)
    in_steps = filled(filled(bucket, rate, now + one), rate, now + one + two)
    assert in_steps.level == pytest.approx(at_once.level, rel=1e-6, abs=1e-3)


def test_a_debt_is_filled_up_first() -> None:
    """What a request took beyond what was there."""
    rate = Rate(60.0, 60.0)
    bucket = taken(full(rate, 0.0), rate, 0.0, 100.0)
    assert bucket == Bucket(-40.0, 0.0)
    assert wait(bucket, rate, 0.0) == 41
