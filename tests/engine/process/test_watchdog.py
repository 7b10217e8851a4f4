"""When a process that has work is asked, and when it is killed: by a clock of the test's own."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.pace import Pace, observed, patience
from erllama_py.engine.process.life.watchdog import (
    ANSWER_SECONDS,
    LOOK_SECONDS,
    MISSED_SECONDS,
    STOPPED_SECONDS,
    Condition,
    Look,
    Verdict,
    Watch,
    look,
    said,
)


class Watched:
    """A process, looked at every `LOOK_SECONDS` of a clock that a test turns."""

    def __init__(self, patience: float = 10.0) -> None:
        self.now, self.beats, self.patience = 100.0, 0, patience
        self.watch = Watch()
        self.verdicts: list[tuple[float, Verdict]] = []  # but for "wait"

    def pass_(
        self, seconds: float, condition: Condition = "running", *, has_work: bool = True, answers: bool = False,
        beats: bool = False, step: float = LOOK_SECONDS, hears: bool = True,
        ran: float = 0.0,
    ) -> Verdict:  # fmt: skip
        """So much time with looks; the last verdict. It ends with the first that kills."""
        began = self.now
        verdict: Verdict = "wait"
        while self.now < began + seconds:
            self.now += step
            self.beats += beats
            self.watch, verdict = look(
                self.watch,
                Look(
                    now=self.now, beats=self.beats, has_work=has_work, patience=self.patience, condition=condition,
                    ran=ran, answers=answers, hears=hears,
                ),
            )  # fmt: skip
            if verdict != "wait":
                self.verdicts.append((self.now - began, verdict))
            if verdict == "kill":
                break
        return verdict

    def killed_after(self, seconds: float, condition: Condition = "running", **more: bool) -> float | None:
        """When it is killed, where it is within so much time."""
        self.pass_(seconds, condition, **more)
        return next((when for when, verdict in self.verdicts if verdict == "kill"), None)


def test_a_hang_is_asked_about_and_ended() -> None:
    """After what its last decodes have taught it to wait, and the time for an answer."""
    one = Watched(patience=10.0)
    when = one.killed_after(100.0)
    assert [verdict for _, verdict in one.verdicts] == ["ask", "kill"]
    assert when == pytest.approx(10.0 + ANSWER_SECONDS, abs=1.1)
    assert said(one.watch).startswith("it had work and did not get on for 15")


def test_one_that_answers_has_more_time() -> None:
    """It may only be slow: its main thread runs."""
    when = Watched(patience=10.0).killed_after(100.0, answers=True)
    assert when is not None
    assert when > 10.0 + 2 * ANSWER_SECONDS


@given(
    slowest=st.floats(0.001, 400.0), slower=st.floats(1.0, 9.0), tokens=st.integers(1, 4096),
)  # fmt: skip
def test_decodes_that_are_a_few_times_slower_than_those_before_go_on(
    slowest: float, slower: float, tokens: int
) -> None:
    """Of a tiny model and of one of 400 s a decode: the time adapts to what they took."""
    one = Watched(patience(observed(Pace(), tokens, slowest), tokens))
    assert one.killed_after(slowest * slower) is None
    one.pass_(LOOK_SECONDS, beats=True)
    assert one.watch.able == 0.0


@pytest.mark.parametrize("condition", ["held", "traced"])
def test_what_others_hold_up_goes_on(condition: Condition) -> None:
    """Busy neighbours and a slow disk give it twenty times as long, a debugger all the time that it wants."""
    one = Watched(patience=10.0)
    assert one.killed_after(150.0, condition) is None
    assert one.verdicts == []
    assert (one.killed_after(1000.0, condition) is None) == (condition == "traced")


def test_what_one_ran_among_others_counts() -> None:
    """It spins and has a third of a CPU: it is found three times as late, and not twenty times."""
    one = Watched(patience=10.0)
    one.pass_(45.0 - LOOK_SECONDS, "held", ran=1 / 3)
    assert [verdict for _, verdict in one.verdicts] == ["ask"]
    assert one.pass_(4 * LOOK_SECONDS, "held", ran=1 / 3) == "kill"


def test_one_that_is_stopped_with_work_is_ended_soon() -> None:
    """It answers nobody, and does not go on by itself. One without work may stay."""
    one = Watched(patience=1000.0)
    assert one.killed_after(100.0, "stopped", has_work=False) is None
    when = one.killed_after(100.0, "stopped")
    assert when == pytest.approx(STOPPED_SECONDS, abs=1.1)
    assert "it was stopped" in said(one.watch)
    short = Watched()
    for _ in range(20):
        short.pass_(STOPPED_SECONDS / 2, "stopped")
        short.pass_(LOOK_SECONDS, "running")
    assert "kill" not in [verdict for _, verdict in short.verdicts]


@pytest.mark.parametrize("away", [0.1, 0.5, 1.0, MISSED_SECONDS - 0.1])
def test_a_stop_counts_from_the_look_that_sees_it(away: float) -> None:
    """A watcher that comes late, as on a busy machine, cannot know since when it is stopped."""
    one = Watched(patience=1000.0)
    for _ in range(20):
        one.pass_(away, "running", step=away)
        one.pass_(away, "stopped", step=away)
        one.pass_(STOPPED_SECONDS - 0.3, "stopped", step=0.45)
    assert one.verdicts == []
    one.pass_(STOPPED_SECONDS + LOOK_SECONDS, "stopped")
    assert [verdict for _, verdict in one.verdicts] == ["kill"]


def test_an_answer_that_nobody_could_hear_is_waited_for() -> None:
    """The event loop of its application does not turn: the process has done nothing wrong by that. But not for ever."""
    one = Watched(patience=10.0)
    one.pass_(10.5 + LOOK_SECONDS)
    one.pass_(3 * ANSWER_SECONDS, hears=False)
    one.pass_(ANSWER_SECONDS - 2 * LOOK_SECONDS)
    assert [verdict for _, verdict in one.verdicts] == ["ask"]
    assert one.killed_after(3 * LOOK_SECONDS) is not None
    other = Watched(patience=10.0).killed_after(1000.0, hears=False)
    assert other == pytest.approx(30.0, abs=1.1)


def test_a_hang_outside_of_a_decode_is_one_too() -> None:
    """Beats alone count: whatever it does, it does not get on."""
    one = Watched()
    assert one.killed_after(1000.0, beats=True) is None
    assert one.killed_after(1000.0) is not None


def test_time_that_the_watcher_missed_does_not_count() -> None:
    """It was stopped itself, or its machine was."""
    one = Watched(patience=10.0)
    assert one.killed_after(10_000.0) is not None
    other = Watched(patience=10.0)
    other.pass_(50 * (MISSED_SECONDS + 1), step=MISSED_SECONDS + 1)
    assert other.verdicts == []
    assert other.watch.able == 0.0


STEPS = st.tuples(
    st.floats(0.0, 30.0), st.sampled_from(["running", "held", "stopped", "traced"]), st.booleans(), st.booleans()
)


@given(steps=st.lists(STEPS, max_size=30))
def test_one_that_beats_within_its_patience_is_never_ended(
    steps: Iterable[tuple[float, Condition, bool, bool]],
) -> None:
    """Whatever happens between."""
    one = Watched(patience=5.0)
    for seconds, condition, has_work, answers in steps:
        one.pass_(min(seconds, 4.0 if condition != "stopped" else 1.0), condition, has_work=has_work, answers=answers)
        one.pass_(LOOK_SECONDS, beats=True)
    assert [verdict for _, verdict in one.verdicts if verdict == "kill"] == []
