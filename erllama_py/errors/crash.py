"""What is known of a crash: what ended an engine, what it was doing, and what it said last."""

from __future__ import annotations

from typing import Literal

import msgspec

CrashReason = Literal["signal", "exit code", "out of memory", "watchdog", "killed", "lost parent", "exception"]


class CrashReport(msgspec.Struct, frozen=True, kw_only=True):
    """One crash of a model's engine, as evidence. Times are in seconds."""

    reason: CrashReason
    """What ended it. `"signal"`: native code, or somebody outside. `"exit code"`: it ended by itself, without having
    been asked. `"out of memory"`: of its limit, of the machine, or of a limit around it; where that may be and nothing
    proves it, it is a `"signal"`, and `problem` says so. `"watchdog"`: it had work and did not get on with it.
    `"killed"`: by this library, for another reason, which `problem` says. `"lost parent"`: its process had nobody to
    work for. `"exception"`: an error in Python, of an engine on a thread too."""
    problem: str
    """All of that in one line."""
    signal: str | None = None
    """The signal by name, `"SIGSEGV"`."""
    exit_code: int | None = None
    """What the process ended with, where no signal ended it."""
    pid: int | None = None
    """The process; `None` where it was a thread of this one."""
    doing: str | None = None
    """What its engine was doing, `"decode"`; `None` where that is not known."""
    doing_seconds: float = 0.0
    """For how long."""
    tokens: int = 0
    """Of how many tokens that was."""
    requests: tuple[int, ...] = ()
    """The requests that it was about, as `Stream.request_id` has them."""
    log_lines: tuple[str, ...] = ()
    """The last lines of the log of llama.cpp, and of what the process wrote to its standard error. Of the log only
    warnings and errors, unless it ended in a load."""
    counters: dict[str, float] = {}
    """What the engine had done since it began, by the names of `ModelCounters`."""
    lived: float = 0.0
    """How long the engine had been there."""
    at: float = 0.0
    """When it was noticed, in unix seconds."""

    def __str__(self) -> str:
        return self.problem
