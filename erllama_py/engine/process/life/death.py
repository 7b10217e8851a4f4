"""What ended a process, told from its status, our own kills, the kernel's counters and its last words. Pure.

A signal alone says little: the kernel kills with SIGKILL where memory runs out, and so do we, and so may anybody. An
allocation that fails ends in `abort()`, in an error of Python's, or in a refusal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from erllama_py.engine.children.codes import DONE, LOST_PARENT, OUT_OF_MEMORY
from erllama_py.engine.no_memory import says_no_memory, says_no_thread
from erllama_py.errors.crash import CrashReason, CrashReport

KillReason = Literal["watchdog", "killed"]
Bound = Literal["group", "data"]  # what memory was bounded by: a cgroup, or how much private data may be mapped
MOST_LINES = 40  # that a report has
MOST_LINE = 500  # characters

_WHY = re.compile(r"GGML_ASSERT|ggml_abort|terminate called|what\(\):|CUDA error|Fatal Python error|fatal error")
# Lines of a trace: of our own asking, or of Python's at a fatal signal, which says no more than the signal does.
_TRACE = re.compile(
    r"^(Thread 0x|Current thread 0x|Stack \(most|  File |Extension modules:|  <no Python frame>|$)|"
    r"^Fatal Python error: (Aborted|Segmentation fault|Bus error|Illegal instruction|Floating)"
)
_HINT = "the kernel has ended a process for want of memory at that time, and it may have been this one"
_LAST_WORDS = 4  # lines before the end that may say that memory was short: what came earlier, it has survived


_WHERE = {
    "starting": "in its start",
    "idle": "idle",
    "between": "between two operations",
    "sampler": "making a sampler",
    "score": "reading scores",
    "free": "freeing cells",
    "embed": "computing embeddings",
    "close": "in its end",
    "ended": "after its end",
}


class Kill(msgspec.Struct, frozen=True):
    """That we have ended a process, and why."""

    reason: KillReason
    problem: str


class Line(NamedTuple):
    """One that a process wrote or logged."""

    text: str
    chatter: bool = False  # logged below a warning: of llama.cpp that is how a load gets on, hundreds of them


class MemoryKills(msgspec.Struct, frozen=True, kw_only=True):
    """How many processes the kernel has ended for want of memory since one was last seen alive, by its counters.

    Those of a memory cgroup count what was in it, whichever memory ran out: one that stands still acquits the process.
    One that has grown tells that it was this process, where the group is its own, and as good as that where it is the
    application's: of all in it the kernel takes our processes first. That of the machine also counts what has ended in
    other groups by their limits. So it counts where there is no other one, where the machine itself has stalled for
    memory, and as a hint at most.
    """

    near: int | None = None  # in the group of the process; None where nobody counts that
    by_limit: bool = False  # that group is its own, and was at its limit
    machine: int = 0  # anywhere
    stalls: int | None = None  # how often somebody had to free memory of the machine first; None where it does not say

    @property
    def hint(self) -> bool:
        """Whether it may have been this process, and nothing says that it was."""
        return self.near is None and self.machine > 0 and self.stalls != 0


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What can be seen of a process that has ended."""

    code: int | None  # as `subprocess` has it: negative for a signal; None where nobody could say
    signal: str | None = None  # that of `code`, by name
    word: int | None = None  # what it said that it would end with
    kill: Kill | None = None
    asked: bool = False  # whether it was told to end
    kills: MemoryKills = MemoryKills()
    bound: Bound | None = None  # where it had a limit of memory
    lines: tuple[Line, ...] = ()  # the last ones of its standard error and its log

    @property
    def texts(self) -> tuple[str, ...]:
        """What it said, without how."""
        return _texts(self.lines)


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """How a process has ended. `reason` is None where it did so in order."""

    reason: CrashReason | None
    problem: str
    signal: str | None = None
    exit_code: int | None = None
    lines: tuple[Line, ...] = ()
    pid: int | None = None
    lived: float = 0.0  # seconds
    at: float = 0.0  # unix seconds

    @property
    def texts(self) -> tuple[str, ...]:
        """What it said, without how."""
        return _texts(self.lines)


def death_of(seen: Observed) -> Death:
    """What an end comes to."""
    code = _code(seen)
    reason = _reason(seen, code)
    return Death(
        reason=reason, problem=_problem(seen, reason, code), signal=seen.signal,
        exit_code=code if code is not None and code >= 0 else None, lines=seen.lines,
    )  # fmt: skip


def _texts(lines: Sequence[Line]) -> tuple[str, ...]:
    return tuple(line.text for line in lines)


def _code(seen: Observed) -> int | None:
    """Where an application ignores SIGCHLD, or waits for all children, 0 is seen for any end: the word counts then."""
    if seen.code in (0, None):
        return seen.word
    return seen.code


def _reason(seen: Observed, code: int | None) -> CrashReason | None:
    if code == DONE or (seen.asked and code is None and seen.code == 0):
        return None
    if seen.kill is not None and seen.signal in ("SIGKILL", None):
        return seen.kill.reason
    if code == OUT_OF_MEMORY or _was_taken(seen) or _said_no_memory(seen):
        return "out of memory"
    if code == LOST_PARENT:
        return "lost parent"
    return "signal" if seen.signal is not None else "exit code"


def _was_taken(seen: Observed) -> bool:
    """Whether the kernel has ended it for want of memory."""
    return seen.signal == "SIGKILL" and bool(seen.kills.near)


def _said_no_memory(seen: Observed) -> bool:
    """Whether its last words were of memory; or of a thread, whose stack is private data, where that is bounded."""
    last = _words(seen.texts)[-_LAST_WORDS:]
    return any(says_no_memory(line) or (seen.bound == "data" and says_no_thread(line)) for line in last)


def _words(lines: Sequence[str]) -> list[str]:
    """What libraries wrote, without traces."""
    return [line for line in lines if not _TRACE.match(line)]


def _problem(seen: Observed, reason: CrashReason | None, code: int | None) -> str:
    how = seen.signal or ("its status is lost" if code is None else f"exit code {code}")
    match reason:
        case None:
            return "it ended in order"
        case "watchdog" | "killed":
            return "it was killed" if seen.kill is None else seen.kill.problem
        case "out of memory":
            said = f"out of memory, {_whose(seen)} ({how})"
        case "lost parent":
            said = "its parent was gone"
        case "signal":
            said = how
        case _:
            said = how
    why = last_reason(seen.texts) or (_HINT if seen.signal == "SIGKILL" and seen.kills.hint else "")
    return f"{said}: {why}" if why else said


def _whose(seen: Observed) -> str:
    """Which memory ran out."""
    if _was_taken(seen):
        return "of its limit" if seen.kills.by_limit else "of the machine or a limit around it"
    return "of its limit" if seen.bound else "of the machine"


def last_reason(lines: Sequence[str]) -> str:
    """The line in which a library says why it ends the process, without the folder of its source; empty where none
    does."""
    for number, line in enumerate(reversed(_words(lines))):
        is_last = number < _LAST_WORDS
        if _WHY.search(line) or (is_last and (says_no_memory(line) or says_no_thread(line))):
            place, colon, rest = line.strip().partition(": ")
            return (f"{place.rpartition('/')[2]}{colon}{rest}" if place.startswith("/") else line.strip())[:MOST_LINE]
    return ""


def about_the_end(lines: Sequence[Line], doing: str | None) -> tuple[str, ...]:
    """Those that may have to do with an end in this operation. The chatter of a load that went well does not: it counts
    where the end was in a load, or where nobody knows."""
    loads = doing in ("starting", "load", None)
    return tuple(line.text for line in lines if loads or not line.chatter)


def cut_lines(lines: Sequence[str]) -> tuple[str, ...]:
    """The last lines, each of them cut where it is long."""
    return tuple(line[:MOST_LINE] for line in lines[-MOST_LINES:])


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine's record says of its last moment, for `report_of`."""

    doing: str | None = None
    seconds: float = 0.0
    tokens: int = 0
    requests: tuple[int, ...] = ()
    counters: dict[str, float] = {}


def report_of(death: Death, found: Evidence) -> CrashReport:
    """What is known of a crash. One who ended in order without having been asked has crashed too."""
    said = "" if found.doing is None else f", {_where(found.doing, found.tokens)}"
    if death.reason == "watchdog" and found.doing == "idle":  # it does so where there is work, and nowhere else
        said = ", which it had not begun"
    head, colon, rest = death.problem.partition(": ")
    lines = cut_lines(about_the_end(death.lines, found.doing))
    return CrashReport(
        reason=death.reason or "exit code", problem=f"{head}{said}{colon}{rest}", signal=death.signal,
        exit_code=death.exit_code, pid=death.pid, doing=found.doing, doing_seconds=found.seconds, tokens=found.tokens,
        requests=found.requests, log_lines=lines, counters=dict(found.counters), lived=death.lived, at=death.at,
    )  # fmt: skip


def _where(doing: str, tokens: int) -> str:
    """What an operation is called in a sentence."""
    if (words := _WHERE.get(doing)) is not None:
        return words
    return f"in a {doing} of {tokens} token{'s' if tokens > 1 else ''}" if tokens else f"in a {doing}"
