"""Trials, as the calls that are in them have it; the rule itself is tested with `suspects`."""

from __future__ import annotations

import pytest

from erllama_py.errors import CrashReport
from erllama_py.model.suspects import Place
from erllama_py.model.trials import Trials


class Call:
    """One that never gets further."""

    place = Place(3, 9)

    def withdraw(self) -> None:
        """It never has to."""


@pytest.fixture
def trials() -> Trials:
    """Of two calls."""
    found = Trials()
    for call_id in (1, 2):
        found.enter(call_id, Call())
    return found


def told(pid: int, doing: str) -> CrashReport:
    """The end of a process, in the words of one of its engines."""
    return CrashReport(reason="signal", problem=f"SIGSEGV, in {doing}", signal="SIGSEGV", pid=pid, doing=doing, at=5.0)


def test_the_end_of_a_process_counts_once_to_a_call(trials: Trials) -> None:
    """However many of its engines tell of it."""
    for doing in ("decode", "idle", "decode"):
        trials.crashed(told(7, doing), {1})
    assert trials.may_run(2)
    trials.crashed(told(8, "decode"), {1})
    assert not trials.may_run(2)
    assert trials.is_on_trial(1)


def test_calls_of_all_its_engines_were_in_it(trials: Trials) -> None:
    """Each engine names its own."""
    for pid in (7, 8):
        trials.crashed(told(pid, "decode"), {1})
        trials.crashed(told(pid, "idle"), {2})
    assert trials.may_run(1)
    assert not trials.may_run(2)
    trials.leave(1)
    assert trials.may_run(2)
    assert trials.is_on_trial(2)
