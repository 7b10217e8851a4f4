"""What the kernel tells of CPUs: how long this process's threads have waited for one, how long CPUs were idle.

Linux only; elsewhere, and where /proc does not tell, `read` answers None. Formats: `/proc/PID/task/TID/schedstat`
(kernel docs, scheduler/sched-stats.rst: the second number is nanoseconds spent waiting on a run queue) and the `cpuN`
lines of `/proc/stat` (proc(5): idle is the 4th number, iowait the 5th, steal the 8th, in ticks).
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import msgspec

from erllama_py.engine.thread_count import Pressure

IDLE_FIELDS, STEAL_FIELD = (3, 4), 7


class CpuTimes(msgspec.Struct, frozen=True):
    """Seconds since some moment: only their growth counts."""

    waited: float
    """Of all threads together: on run queues, and while a hypervisor ran somebody else."""
    idle: float
    """Of all CPUs together."""


class CpuWatch:
    """Reads for one engine; engine thread only. `root` is where `proc` lies."""

    def __init__(self, cpus: Collection[int], root: Path = Path("/")) -> None:
        self._cpus = {f"cpu{cpu}".encode() for cpu in cpus}
        self._tasks, self._stat = str(root / "proc/self/task"), str(root / "proc/stat")
        self._tick = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
        self._seen: dict[str, int] = {}  # of each thread, the nanoseconds that it had waited
        self._waited = 0  # nanoseconds

    def read(self) -> CpuTimes | None:
        """The times now; some 10 µs for each thread of the process."""
        try:
            self._read_tasks()
            idle, stolen = self._read_cpus()
        except (OSError, ValueError, IndexError):
            return None
        return CpuTimes(self._waited / 1e9 + stolen / self._tick, idle / self._tick)

    def _read_tasks(self) -> None:
        """Threads come and go, so it is summed up by how much each has waited since the last look."""
        seen: dict[str, int] = {}
        for task in os.listdir(self._tasks):
            try:
                seen[task] = int(_read(f"{self._tasks}/{task}/schedstat").split()[1])
            except (FileNotFoundError, ProcessLookupError):  # it has ended
                continue
            self._waited += max(0, seen[task] - self._seen.get(task, 0 if self._seen else seen[task]))
        self._seen = seen

    def _read_cpus(self) -> tuple[int, int]:
        idle = stolen = 0
        for line in _read(self._stat).splitlines():
            name, *numbers = line.split()
            if name in self._cpus:
                idle += sum(int(numbers[field]) for field in IDLE_FIELDS)
                stolen += int(numbers[STEAL_FIELD])
            elif not name.startswith(b"cpu"):
                break
        return idle, stolen


def pressure(before: CpuTimes, after: CpuTimes, seconds: float) -> Pressure:
    """What two readings tell of the time between them."""
    return Pressure((after.waited - before.waited) / seconds, (after.idle - before.idle) / seconds)


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 1 << 16)
    finally:
        os.close(descriptor)
