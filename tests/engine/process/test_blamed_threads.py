"""Which of the engines in a process a fatal signal has hit: told by the trace that is written then, or not at all."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from helpers.project import PACKAGE
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.children.traces import frame_hit, in_frame
from erllama_py.engine.process.child import doing_last
from erllama_py.engine.recorder import OPERATIONS, Doing

# Three threads that compute, and one of them, or the main thread, does what ends the process.
CODE = """
import ctypes, os, signal, sys, threading
sys.path.insert(0, {root!r})
from erllama_py.engine.children.traces import in_frame, show_traces
show_traces()
never = threading.Event()
def end():
    {how}
def work(number):
    return in_frame(number, end if number == {hit} else never.wait)
for number in (1, 2, 3):
    threading.Thread(target=work(number), daemon=True).start()
if {hit} == 0:
    end()
never.wait()
"""
HOWS = {
    "SIGSEGV": "ctypes.string_at(0)",
    "SIGABRT": "os.abort()",
    "SIGBUS": "signal.raise_signal(signal.SIGBUS)",
    "SIGFPE": "signal.raise_signal(signal.SIGFPE)",
    "SIGILL": "signal.raise_signal(signal.SIGILL)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
}


def last_lines(how: str, hit: int) -> list[str]:
    code = CODE.format(root=str(PACKAGE.parent), how=HOWS[how], hit=hit)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode < 0
    return ended.stderr.splitlines()


@pytest.mark.parametrize("how", HOWS)
def test_the_thread_that_a_signal_has_hit_is_told(how: str) -> None:
    """For each signal that native code raises; nothing is written at SIGKILL."""
    assert frame_hit(last_lines(how, 2)) == (2 if how != "SIGKILL" else None)


def test_a_thread_that_is_no_engine_is_none_of_them() -> None:
    """Such as the main one, that gets what is sent from outside."""
    lines = last_lines("SIGSEGV", 0)
    assert any(line.startswith("Fatal Python error") for line in lines)
    assert frame_hit(lines) is None


FATAL = ["Fatal Python error: Aborted", "", "Stack (most recent call first):", '  File "a.py", line 3 in decode']
OTHERS = st.lists(st.sampled_from(["", "ggml.c:3: GGML_ASSERT(false) failed", "Thread 0x1 (most recent call first):"]))


def frame(number: int) -> str:
    return f'  File "/x y/traces.py", line 7 in computes_{number}'


@given(st.integers(0, 1000), OTHERS, OTHERS)
def test_lines_around_a_trace_do_not_matter(number: int, before: list[str], after: list[str]) -> None:
    """Nor what a trace of all threads has said before, which the watchdog had asked for."""
    asked = [frame(number + 1), frame(number + 2)]
    assert frame_hit([*before, *asked, *FATAL, *after, frame(number), *after]) == number
    assert frame_hit([*before, *asked, *after]) is None
    assert frame_hit([*before, *FATAL, frame(number), *after, frame(number + 1)]) is None
    assert frame_hit([*asked, *FATAL, *after]) is None
    assert frame_hit([*FATAL, f"said: {frame(number)}", f"{frame(number)}!"]) is None


@pytest.mark.parametrize("number", [0, 17])
def test_what_begins_in_a_frame_runs_there(number: int) -> None:
    """Under its name, with whatever it raises."""
    seen: list[str] = []

    def body() -> None:
        seen.append(sys._getframe(1).f_code.co_name)
        raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"):
        in_frame(number, body)()
    assert seen == [f"computes_{number}"]


DOINGS = st.builds(
    Doing, st.sampled_from(OPERATIONS), st.floats(0, 100), st.integers(0, 9), st.tuples(st.integers(1, 9)),
    st.integers(1, 9),
)  # fmt: skip


@given(st.dictionaries(st.integers(1, 5), DOINGS), st.none() | st.integers(1, 6))
def test_what_counts_is_what_the_thread_did_or_all_that_was_at_work(doing: dict[int, Doing], hit: Any) -> None:
    """An engine that is at rest has crashed nothing."""
    working = [one for one in doing.values() if one.is_work]
    found = doing_last(doing, hit)
    if hit in doing and doing[hit].is_work:
        assert found == doing[hit]
        return
    assert (found is None) == (not working)
    if found is not None:
        assert set(found.requests) == {number for one in working for number in one.requests}
        assert found.operation in {one.operation for one in working}
        assert (found.operation == "embed") == all(one.operation == "embed" for one in working)
