"""What the kernel reports of CPUs: how long this process's threads have waited for one, how long CPUs were idle.

`CpuWatch` reads it. `Pressures`, used by `ComputeThreads` on the engine thread, says when, and owns what was read:
means that are kept apart by sort of decode.

Linux only; elsewhere, and where /proc has none of it, `read` answers None. Formats: `/proc/PID/task/TID/schedstat`
(kernel docs, scheduler/sched-stats.rst: the second number is nanoseconds spent waiting on a run queue) and the `cpuN`
lines of `/proc/stat` (proc(5): idle is the 4th number, iowait the 5th, steal the 8th, in ticks).

The files are read through functions of C that keep the GIL. Python's own release it some four times for each thread,
and beside a busy event loop it takes up to a switch interval to get it back: 57 ms a reading with 25 threads.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from erllama_py.engine.thread_count import Pressure

IDLE_FIELDS, STEAL_FIELD = (3, 4), 7

BUFFER = 1 << 16


# Decodes of few tokens read all weights for each and wait for memory; those of many compute.
Sort = Literal["few", "many"]

CALM = Pressure(waiting=0.0, idle=0.0)

# Seconds of work between two readings of the kernel's counters: idle time is counted in hundredths of a second, and a
# reading for 30 threads takes 0.4 ms.
WATCH_SECONDS = 0.1


class CpuTimes(msgspec.Struct, frozen=True):
    """Seconds since some moment: only their growth counts."""

    waited: float  # of all threads together: on run queues, and while a hypervisor ran another guest
    idle: float  # of all CPUs together


class CpuWatch:
    """Reads for one engine; engine thread only. `root` is where `proc` lies."""

    def __init__(self, cpus: Collection[int], root: Path = Path("/")) -> None:
        self._cpus = {f"cpu{cpu}".encode() for cpu in cpus}
        self._tasks, self._stat = os.fsencode(root / "proc/self/task"), os.fsencode(root / "proc/stat")
        self._files = _Files() if sys.platform == "linux" else None
        self._tick = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
        self._seen: dict[bytes, int] = {}  # of each thread, the nanoseconds that it had waited
        self._waited = 0  # nanoseconds

    def read(self) -> CpuTimes | None:
        """The times now; some 10 µs for each thread of the process."""
        if self._files is None:
            return None
        try:
            self._read_tasks(self._files)
            idle, stolen = self._read_cpus(self._files)
        except (OSError, ValueError, IndexError):
            return None
        return CpuTimes(self._waited / 1e9 + stolen / self._tick, idle / self._tick)

    def _read_tasks(self, files: _Files) -> None:
        """Threads come and go, so what each has waited since the last reading is summed."""
        seen: dict[bytes, int] = {}
        for task in files.names(self._tasks):
            try:
                seen[task] = int(files.text(b"%s/%s/schedstat" % (self._tasks, task)).split()[1])
            except (FileNotFoundError, ProcessLookupError):  # it has ended
                continue
            self._waited += max(0, seen[task] - self._seen.get(task, 0 if self._seen else seen[task]))
        self._seen = seen

    def _read_cpus(self, files: _Files) -> tuple[int, int]:
        idle = stolen = 0
        for line in files.text(self._stat).splitlines():
            name, *numbers = line.split()
            if name in self._cpus:
                idle += sum(int(numbers[field]) for field in IDLE_FIELDS)
                stolen += int(numbers[STEAL_FIELD])
            elif not name.startswith(b"cpu"):
                break
        return idle, stolen


class _Files:
    """Files and folders, read without releasing the GIL: for /proc, whose files need no disk."""

    def __init__(self) -> None:
        self._c = ctypes.PyDLL(None, use_errno=True)
        self._getdents: Any = getattr(self._c, "getdents64", None)  # not in glibc before 2.30
        self._buffer = ctypes.create_string_buffer(BUFFER)

    def text(self, path: bytes) -> bytes:
        """What one read gives, `BUFFER` bytes at most."""
        descriptor = self._open(path, os.O_RDONLY)
        try:
            got = self._got(self._c.read(descriptor, self._buffer, BUFFER), path)
            return ctypes.string_at(self._buffer, got)
        finally:
            self._c.close(descriptor)

    def names(self, folder: bytes) -> Iterator[bytes]:
        """What lies in a folder. Format: `struct linux_dirent64`, getdents(2)."""
        if self._getdents is None:
            yield from os.listdir(folder)
            return
        descriptor = self._open(folder, os.O_RDONLY | os.O_DIRECTORY)
        entries = b""
        try:
            while got := self._got(self._getdents(descriptor, self._buffer, BUFFER), folder):
                entries += ctypes.string_at(self._buffer, got)
        finally:
            self._c.close(descriptor)
        start = 0
        while start < len(entries):
            end = start + int.from_bytes(entries[start + 16 : start + 18], sys.byteorder)
            name = entries[start + 19 : end].split(b"\0", 1)[0]
            if name not in (b".", b".."):
                yield name
            start = end

    def _open(self, path: bytes, flags: int) -> int:
        return self._got(self._c.open(path, flags | os.O_CLOEXEC), path)

    def _got(self, result: int, path: bytes) -> int:
        if result < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), os.fsdecode(path))
        return result


class Pressures:
    """What the kernel has reported of each sort of decodes: means over stretches of that sort, `WATCH_SECONDS` in
    total.

    One request may be too short for a mean, and sorts of decodes may take turns.
    """

    def __init__(self, read: Callable[[], CpuTimes | None]) -> None:
        self._read = read
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
            times = self._read()
        self._stretch = sort, now, times

    def end(self, now: float) -> CpuTimes | None:
        """No decode follows; what was read."""
        if self._stretch is None:
            return None
        (sort, since, before), after = self._stretch, self._read()
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
