"""The restart budget, by its laws."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.actors.restart_budget import GiveUp, RestartAfter, RestartLimits, backoff, decide

LIMITS = st.builds(
    RestartLimits,
    intensity=st.integers(0, 6),
    period=st.floats(0.5, 100),
    backoff_first=st.floats(0, 2),
    backoff_factor=st.floats(1, 4),
    backoff_max=st.floats(0, 10),
    jitter=st.floats(0, 1),
)
# Seconds between one failure and the next, as seen from the moment at which the restart was due.
GAPS = st.lists(st.tuples(st.floats(0, 60), st.floats(0, 1, exclude_max=True)), max_size=30)


@given(limits=LIMITS, gaps=GAPS)
def test_no_window_of_the_period_holds_more_than_intensity_restarts(
    limits: RestartLimits, gaps: Sequence[tuple[float, float]]
) -> None:
    """Whatever fails when: at every restart, those of the last period are within the intensity."""
    now, restarts = 0.0, list[float]()
    history: tuple[float, ...] = ()
    for gap, random in gaps:
        now += gap
        decision = decide(limits, history, now, random)
        history = decision.history
        if isinstance(decision, GiveUp):
            break
        now += decision.delay
        restarts.append(now)
    for restart in restarts:
        assert sum(restart - limits.period < other <= restart for other in restarts) <= limits.intensity


@given(limits=LIMITS, times=st.lists(st.floats(0, 300), max_size=30))
def test_the_law_holds_for_siblings_that_fail_during_each_others_backoff(
    limits: RestartLimits, times: Sequence[float]
) -> None:
    """Failures that come before an earlier restart is done count too."""
    history: tuple[float, ...] = ()
    restarts = []
    for now in sorted(times):
        decision = decide(limits, history, now, 0.5)
        history = decision.history
        if isinstance(decision, RestartAfter):
            restarts.append(now + decision.delay)
    for restart in restarts:
        assert sum(restart - limits.period < other <= restart for other in restarts) <= limits.intensity


@given(limits=LIMITS, restarts=st.integers(0, 5000))
def test_backoff_grows_up_to_the_cap(limits: RestartLimits, restarts: int) -> None:
    """Before jitter it never shrinks, never passes the cap and never overflows."""
    assert 0 <= backoff(limits, restarts) <= backoff(limits, restarts + 1) <= limits.backoff_max


@given(limits=LIMITS, random=st.floats(0, 1, exclude_max=True))
def test_jitter_stays_within_its_fraction(limits: RestartLimits, random: float) -> None:
    """The delay lies around the backoff, at most `jitter` of it away, and is never negative."""
    decision = decide(limits, (), 0.0, random)
    if isinstance(decision, RestartAfter):
        plain = backoff(limits, 0)
        assert decision.delay >= 0
        assert abs(decision.delay - plain) <= limits.jitter * plain + 1e-9


@given(limits=LIMITS, history=st.lists(st.floats(0, 100), max_size=6))
def test_a_quiet_period_resets_the_budget(limits: RestartLimits, history: Sequence[float]) -> None:
    """After a period without restarts the next decision is like the first."""
    later = max(history, default=0.0) + 2 * limits.period
    assert decide(limits, tuple(history), later, 0.5).history == decide(limits, (), later, 0.5).history


def test_the_default_budget_spends_three_restarts_with_growing_delays() -> None:
    """The figures of the docstring, without jitter."""
    limits, delays = RestartLimits(jitter=0), list[float]()
    history: tuple[float, ...] = ()
    for now in (0.0, 1.0, 2.0):
        decision = decide(limits, history, now, 0.0)
        assert isinstance(decision, RestartAfter)
        history = decision.history
        delays.append(decision.delay)
    assert delays == [0.05, 0.1, 0.2]
    assert isinstance(decide(limits, history, 3.0, 0.0), GiveUp)


@pytest.mark.parametrize(
    "wrong",
    [{"intensity": -1}, {"period": 0}, {"backoff_first": -1}, {"backoff_factor": 0.5}, {"jitter": 2}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    """At once, not at the first crash."""
    with pytest.raises(ValueError, match="must"):
        RestartLimits(**wrong)  # type: ignore[arg-type]  # the table holds ints and floats for fields of either
