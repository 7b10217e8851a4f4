"""What is known when an engine has ended by itself: from its record, and from the death of its process."""

from __future__ import annotations

import time
from contextlib import suppress

from erllama_py.engine.process.life.death import Death, Evidence, report_of
from erllama_py.engine.recorder import Doing, Recorder
from erllama_py.engine.work import Work
from erllama_py.errors.crash import CrashReport


class EngineDied(Exception):
    """The process of an engine has ended; `report` has what is known of it."""

    def __init__(self, report: CrashReport) -> None:
        super().__init__(report.problem)
        self.report = report


def evidence(recorder: Recorder, doing: Doing | None = None) -> Evidence:
    """What a record says of the last moment; of another operation, where that is more to the point."""
    doing, work = doing or recorder.last(), Work()
    recorder.copy_work(work)
    return Evidence(
        doing=doing.operation, seconds=max(0.0, time.monotonic() - doing.since) if doing.beats else 0.0,
        tokens=doing.tokens, requests=doing.requests,
        counters={name: float(getattr(work, name)) for name in Work.__struct_fields__},
    )  # fmt: skip


def died(death: Death, recorder: Recorder, doing: Doing | None = None) -> EngineDied:
    """The error for a death."""
    return EngineDied(report_of(death, evidence(recorder, doing)))


def with_report(error: Exception, recorder: Recorder, pid: int | None = None) -> Exception:
    """An error that has ended an engine, with a `report` of what is known; `pid` where that has a process of its
    own."""
    with suppress(Exception):  # of a class that takes no attributes, or has no text
        vars(error).setdefault("report", exception_report(error, recorder, pid))
    return error


def exception_report(error: BaseException, recorder: Recorder, pid: int | None = None) -> CrashReport:
    """What is known of an engine that has ended with an error in Python; `pid` as in `with_report`."""
    found, kind = evidence(recorder), type(error).__name__
    return CrashReport(
        reason="exception", problem=f"{kind}: {error}" if str(error) else kind,
        pid=pid, doing=found.doing, doing_seconds=found.seconds, tokens=found.tokens,
        requests=found.requests, counters=found.counters, at=time.time(),
    )  # fmt: skip
