"""What ended a process: a table of ends, and what holds for any."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.children.codes import LOST_PARENT, OUT_OF_MEMORY
from erllama_py.engine.process.life.death import (
    MOST_LINE,
    MOST_LINES,
    Death,
    Evidence,
    Kill,
    Line,
    MemoryKills,
    Observed,
    death_of,
    last_reason,
    report_of,
)

HUNG = Kill("watchdog", "it hangs")
TRACE = ("Fatal Python error: Aborted", "", "Thread 0x00007f (most recent call first):", '  File "a.py", line 1 in f')


NO_THREAD = "libgomp: Thread creation failed: Resource temporarily unavailable"


def said(*lines: str) -> tuple[Line, ...]:
    return tuple(map(Line, lines))


ENDS: dict[str, tuple[Observed, str | None, str]] = {
    "in order": (Observed(code=0, word=0), None, "it ended in order"),
    "in order, its status lost": (Observed(code=None, word=0), None, "it ended in order"),
    "as it was told, without a word": (Observed(code=0, asked=True), None, "it ended in order"),
    "without a word": (Observed(code=0), "exit code", "its status is lost"),
    "by a fault": (Observed(code=-11, signal="SIGSEGV"), "signal", "SIGSEGV"),
    "by a fault while it was to end": (Observed(code=-11, signal="SIGSEGV", asked=True), "signal", "SIGSEGV"),
    "by a fault before it could be killed": (Observed(code=-11, signal="SIGSEGV", kill=HUNG), "signal", "SIGSEGV"),
    "killed by us": (Observed(code=-9, signal="SIGKILL", kill=HUNG), "watchdog", "it hangs"),
    "killed by us, its status lost": (Observed(code=0, kill=HUNG), "watchdog", "it hangs"),
    "killed by somebody": (Observed(code=-9, signal="SIGKILL"), "signal", "SIGKILL"),
    "killed by the kernel": (
        Observed(code=-9, signal="SIGKILL", kills=MemoryKills(near=1)), "out of memory",
        "out of memory, of the machine or a limit around it (SIGKILL)",
    ),
    "killed by the kernel, by its limit": (
        Observed(code=-9, signal="SIGKILL", kills=MemoryKills(near=1, by_limit=True), bound="group"), "out of memory",
        "out of memory, of its limit (SIGKILL)",
    ),
    "killed by the kernel, within its limit": (
        Observed(code=-9, signal="SIGKILL", kills=MemoryKills(near=1), bound="group"), "out of memory",
        "out of memory, of the machine or a limit around it (SIGKILL)",
    ),
    "killed by somebody while another was out of memory": (
        Observed(code=-9, signal="SIGKILL", kills=MemoryKills(near=0, machine=1, stalls=9)), "signal", "SIGKILL"
    ),
    "killed by somebody, bounded": (
        Observed(code=-9, signal="SIGKILL", kills=MemoryKills(near=0), bound="group"), "signal", "SIGKILL"
    ),
    "killed while another was out of its own memory": (
        Observed(code=-9, signal="SIGKILL", kills=MemoryKills(machine=1, stalls=0)), "signal", "SIGKILL"
    ),
    "killed by whom nobody says, short of memory": (
        Observed(code=-9, signal="SIGKILL", kills=MemoryKills(machine=1, stalls=3)), "signal",
        "SIGKILL: the kernel has ended a process for want of memory at that time, and it may have been this one",
    ),
    "killed by whom nobody says, on an old kernel": (
        Observed(code=-9, signal="SIGKILL", kills=MemoryKills(machine=1)), "signal",
        "SIGKILL: the kernel has ended a process for want of memory at that time, and it may have been this one",
    ),
    "by a fault while another was out of memory": (
        Observed(code=-11, signal="SIGSEGV", kills=MemoryKills(near=1, machine=1)), "signal", "SIGSEGV"
    ),
    "an allocation of C++": (
        Observed(
            code=-6, signal="SIGABRT",
            lines=said("terminate called after throwing one", "  what():  std::bad_alloc", *TRACE),
        ),
        "out of memory", "out of memory, of the machine (SIGABRT): what():  std::bad_alloc",
    ),
    "an allocation of Rust's": (
        Observed(
            code=-6, signal="SIGABRT", bound="data",
            lines=said("memory allocation of 9 bytes failed", "stack backtrace:", "memory allocation of 1 bytes failed",
                       "skipping backtrace printing to avoid potential recursion", *TRACE),
        ),
        "out of memory", "out of memory, of its limit (SIGABRT): memory allocation of 1 bytes failed",
    ),
    "an assertion for want of memory": (
        Observed(
            code=-6, signal="SIGABRT", bound="data",
            lines=said("ggml_aligned_malloc: insufficient memory (attempted to allocate 14.02 MB)",
                   "/build/ggml/src/ggml.c:9: GGML_ASSERT(ctx->mem_buffer != NULL) failed", *TRACE),
        ),
        "out of memory", "out of memory, of its limit (SIGABRT): ggml.c:9: GGML_ASSERT(ctx->mem_buffer",
    ),
    "a stack beyond the limit of its data": (
        Observed(code=1, bound="data", lines=said(NO_THREAD)),
        "out of memory", f"out of memory, of its limit (exit code 1): {NO_THREAD}",
    ),
    "no thread left, whatever its memory": (
        Observed(code=1, bound="group", lines=said(NO_THREAD)),
        "exit code", f"exit code 1: {NO_THREAD}",
    ),
    "an allocation long ago": (
        Observed(code=-11, signal="SIGSEGV", lines=said("failed to allocate", "a", "b", "c", "d")), "signal", "SIGSEGV"
    ),
    "an allocation of Python's": (Observed(code=OUT_OF_MEMORY, word=OUT_OF_MEMORY), "out of memory", ""),
    "nobody to work for": (Observed(code=LOST_PARENT, word=LOST_PARENT), "lost parent", "its parent was gone"),
    "an assertion": (
        Observed(code=-6, signal="SIGABRT", lines=said("/build/ggml/src/ggml.c:99: GGML_ASSERT(x > 0) failed", *TRACE)),
        "signal", "SIGABRT: ggml.c:99: GGML_ASSERT(x > 0) failed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", ENDS)
def test_each_end_has_its_reason(how: str) -> None:
    """And says it in one line."""
    seen, reason, problem = ENDS[how]
    death = death_of(seen)
    assert death.reason == reason
    assert death.problem.startswith(problem)
    assert ("may have been" in death.problem) == ("may have been" in problem)


LINES = st.lists(st.builds(Line, st.text(max_size=2 * MOST_LINE), st.booleans()), max_size=2 * MOST_LINES).map(tuple)
ANY = st.builds(
    Observed,
    code=st.none() | st.integers(-64, 255), signal=st.none() | st.sampled_from(["SIGKILL", "SIGSEGV"]),
    word=st.none() | st.integers(0, 255), kill=st.none() | st.just(HUNG), asked=st.booleans(),
    kills=st.builds(
        MemoryKills, near=st.none() | st.integers(0, 2), by_limit=st.booleans(), machine=st.integers(0, 2),
        stalls=st.none() | st.integers(0, 2),
    ),
    bound=st.sampled_from([None, "group", "data"]), lines=LINES,
)  # fmt: skip


@given(seen=ANY)
def test_any_end_comes_to_a_reason_and_a_short_report(seen: Observed) -> None:
    """Nothing that a process writes makes a report long, and none ends in order that did not say so or was told to."""
    death = death_of(seen)
    assert death.problem
    lines = report_of(death, Evidence()).log_lines
    assert len(lines) <= MOST_LINES
    assert all(len(line) <= MOST_LINE for line in lines)
    assert (death.reason is not None) or seen.word == 0 or seen.code == 0 == seen.asked - 1
    assert len(last_reason(seen.texts)) <= MOST_LINE


@given(seen=ANY)
def test_a_signal_is_out_of_memory_by_the_counters_of_its_group_alone(seen: Observed) -> None:
    """What the machine counts is a hint, and no reason; what a group counts is one for SIGKILL alone."""
    without = msgspec.structs.replace(seen, kills=MemoryKills())
    death, plain = death_of(seen), death_of(without)
    if seen.signal == "SIGKILL" and seen.kills.near and seen.kill is None and death.reason is not None:
        assert death.reason == "out of memory"
    else:
        assert death.reason == plain.reason


def test_a_report_says_what_the_engine_was_doing() -> None:
    """Between what ended it and why."""
    death = Death(reason="signal", problem="SIGABRT: GGML_ASSERT(x)", signal="SIGABRT", pid=7, lived=1.5, at=9.0)
    report = report_of(death, Evidence(doing="decode", tokens=3, requests=(4, 5), counters={"decodes": 2}))
    assert str(report) == "SIGABRT, in a decode of 3 tokens: GGML_ASSERT(x)"
    assert (report.pid, report.requests, report.counters, report.at) == (7, (4, 5), {"decodes": 2}, 9.0)
    assert report_of(death_of(Observed(code=0, word=0)), Evidence()).reason == "exit code"


def test_one_that_had_not_heard_of_its_work_is_not_called_idle() -> None:
    """Its last word was that it waits for some."""
    stopped = Death(reason="watchdog", problem="it was stopped for 2.0 s while it had work")
    told = report_of(stopped, Evidence(doing="idle")).problem
    assert told == "it was stopped for 2.0 s while it had work, which it had not begun"
    assert report_of(Death(reason="signal", problem="SIGSEGV"), Evidence(doing="idle")).problem == "SIGSEGV, idle"


@pytest.mark.parametrize(("doing", "chatter"), [("load", True), ("starting", True), (None, True), ("decode", False)])
def test_what_a_load_that_went_well_has_said_is_in_no_report(doing: str | None, chatter: bool) -> None:
    """It says nothing of the end of a decode. Warnings stay, and all that was written to standard error."""
    loading = [Line(f"llama_model_loader: tensor {number}", chatter=True) for number in range(2 * MOST_LINES)]
    lines = (Line("n_ctx is small"), *loading, Line("GGML_ASSERT(x) failed"))
    told = report_of(Death(reason="signal", problem="SIGKILL", lines=lines), Evidence(doing=doing)).log_lines
    assert told == (tuple(line.text for line in lines)[-MOST_LINES:] if chatter else (lines[0].text, lines[-1].text))
