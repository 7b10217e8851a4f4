"""What the log says of a failure under the tree: first child, supervisor, cause and traceback, then what follows.

The end of a process has no traceback: what is known of it takes that place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from erllama_py.actors import ActorEnded, ChildFailure, Returned, describe
from erllama_py.errors.crash import CrashReport
from erllama_py.watch.log import get_logger

LINES = 5  # of what a process said last; its report has more

_FRAME = "  File "  # in a trace that Python writes of a thread, the innermost first
_AROUND = re.compile(r"^(Thread 0x|Current thread 0x|Stack \(most|Extension modules:|  <no Python frame>|$)")


def log_failure(failure: ChildFailure) -> None:
    """A warning that it has ended, then that it is restarted; an error where it is not."""
    error = failure.error
    log = get_logger(supervisor=failure.supervisor, child=failure.name, restarts=failure.restarts)
    returned = isinstance(error, ActorEnded) and isinstance(error.exit, Returned)
    match failure.outcome:
        case "ended":
            log.warning("a permanent child returned" if returned else "a child failed", **_known(error))
        case "restarting":
            event = "restarting a permanent child that returned" if returned else "restarting a failed child"
            log.info(event, delay_seconds=round(failure.delay or 0.0, 3))
        case "gave_up":
            event = "gave up restarting a permanent child that returns" if returned else "gave up restarting"
            log.error(event, error=describe(error))
        case "abandoned":
            log.error("abandoned: it does not end", **_known(error))


def _known(error: BaseException) -> dict[str, Any]:
    """All that there is to know of a failure."""
    report = getattr(error, "report", None)
    if isinstance(report, CrashReport) and report.reason != "exception":
        last = last_words(report.log_lines)
        return {"error": describe(error), "pid": report.pid, "requests": report.requests, "last": last}
    traceback = error if error.__traceback__ is not None or error.__cause__ is not None else None
    return {"error": describe(error), "exc_info": traceback}


def last_words(lines: Sequence[str]) -> tuple[str, ...]:
    """The last of these lines, and of each thread's trace the innermost frame alone: what a thread began with is the
    same each time. Pure."""
    inner = [
        line
        for before, line in zip(("", *lines), lines, strict=False)
        if not _AROUND.match(line) and not (line.startswith(_FRAME) and before.startswith(_FRAME))
    ]
    return tuple(inner[-LINES:])
