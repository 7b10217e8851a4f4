"""What holds up an engine's threads: means of what the kernel reports, kept apart by sort of decode.

`Pressures` is used by `ComputeThreads`, on the engine thread. It decides when the kernel's counters are read, and owns
the readings.
"""

from __future__ import annotations

from typing import Literal, Protocol

from erllama_py.engine.cpu_watch import CpuTimes
from erllama_py.engine.thread_count import Pressure

# Decodes of few tokens read all weights for each and wait for memory; those of many compute.
Sort = Literal["few", "many"]

CALM = Pressure(waiting=0.0, idle=0.0)

# Seconds of work between two readings of the kernel's counters: idle time is counted in hundredths of a second, and a
# reading for 30 threads takes 0.4 ms.
WATCH_SECONDS = 0.1


class Watch(Protocol):
    """What `CpuWatch` does."""

    def read(self) -> CpuTimes | None: ...


class Pressures:
    """What the kernel has reported of each sort of decodes: means over stretches of that sort, `WATCH_SECONDS` in
    total.

    One request may be too short for a mean, and sorts of decodes may take turns.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._stretch: tuple[Sort, float, CpuTimes | None] | None = None  # under way: its sort, and its beginning
        self._sums: dict[Sort, tuple[float, float, float]] = {}  # seconds waited, idle and passed
        self._pressures: dict[Sort, Pressure | None] = {"few": CALM, "many": CALM}

    def of(self, sort: Sort) -> Pressure | None:
        """The last mean; None where the kernel reports nothing."""
        return self._pressures[sort]

    def begin(self, sort: Sort, now: float) -> None:
        """A decode of this sort follows."""
        if self._stretch is not None:
            before, since, _ = self._stretch
            if before == sort and now - since < WATCH_SECONDS:
                return
            times = self.end(now)
        else:
            times = self._watch.read()
        self._stretch = sort, now, times

    def end(self, now: float) -> CpuTimes | None:
        """No decode follows; what was read."""
        if self._stretch is None:
            return None
        (sort, since, before), after = self._stretch, self._watch.read()
        self._stretch = None
        if (before is None) is not (after is None):
            return after  # it does report, but failed to once
        waited, idle, seconds = self._sums.get(sort, (0.0, 0.0, 0.0))
        seconds += now - since
        if before is not None and after is not None:
            waited, idle = waited + after.waited - before.waited, idle + after.idle - before.idle
        if seconds >= WATCH_SECONDS:
            self._pressures[sort] = None if after is None else Pressure(waited / seconds, idle / seconds)
            waited = idle = seconds = 0.0
        self._sums[sort] = waited, idle, seconds
        return after

    def drop(self) -> None:
        """The decodes since `begin` do not count."""
        self._stretch = None
