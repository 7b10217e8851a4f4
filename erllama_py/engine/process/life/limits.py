"""What a model's process may take: memory, CPUs, and how much it gives way. Set from outside, right after its begin.

Memory is bounded by a cgroup of its own where one can be made, of either version; else by how much private data it may
map, in which the mapped weights do not count. A group that a killed parent has left is removed by the next one.
Formats: kernel docs, admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst; getrlimit(2), sched_setaffinity(2).
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from erllama_py.cgroups import cgroups, read_text
from erllama_py.cpus import usable_cpus
from erllama_py.engine.process.life.death import Bound, MemoryKills
from erllama_py.errors import InvalidOption
from erllama_py.options.process import ProcessOpts

_PREFIX = "erllama-"
_AGAIN_SECONDS = 0.02  # between two tries to remove a group
# What is in a group itself, of version 2, also before Linux 5.2; of version 1.
_EVENTS = ("memory.events.local", "memory.events", "memory.oom_control")
# Of version 1, whose `memory.failcnt` newer kernels leave at 0. Bytes are taken by the piece: they stop short of it.
_MOST_AND_LIMIT, FULL_SHARE = ("memory.max_usage_in_bytes", "memory.limit_in_bytes"), 0.95
_STALLS = "allocstall"  # times that somebody had to free memory of the machine itself, one line for each zone


class MemoryGroup:
    """A cgroup with a limit of memory, for one process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"<MemoryGroup {self.folder.name}>"

    @property
    def was_full(self) -> bool:
        """Whether its own limit was in the way."""
        if (ooms := _counters(read_text(self.folder / "memory.events")).get("oom")) is not None:
            return ooms > 0
        most, limit = (read_text(self.folder / name) for name in _MOST_AND_LIMIT)
        return not (most.isdigit() and limit.isdigit()) or int(most) >= FULL_SHARE * int(limit)

    def close(self) -> bool:
        """Remove it; its process has ended. False where the kernel is not done with that, as for a moment after it has
        killed it there."""
        try:
            self.folder.rmdir()
        except OSError:
            return not self.folder.exists()
        return True


class _Counts(NamedTuple):
    """The kernel's counters at a look: see `MemoryKills`."""

    near: int | None = None
    machine: int | None = None
    stalls: int | None = None


class Limits:
    """The limits of one process. `close` once it has ended."""

    def __init__(self, opts: ProcessOpts, root: Path = Path("/")) -> None:
        self._opts, self._root = opts, root
        self._group: MemoryGroup | None = None
        self._before = self._seen = _Counts()  # up to the look before the last, and up to that

    @property
    def bound(self) -> Bound | None:
        """By what memory is bounded, if it is."""
        return None if self._opts.memory_bytes is None else "data" if self._group is None else "group"

    def apply(self, pid: int) -> None:
        """Set them for a process that has one thread still: others inherit them. Raises `InvalidOption`."""
        opts = self._opts
        check_cpus(opts)
        if opts.memory_bytes is not None:
            self._group = make_group(self._root, pid, opts.memory_bytes)
            if self._group is None:
                bound_data(pid, opts.memory_bytes)
        self._before = self._seen = self._count()
        with suppress(ProcessLookupError):
            if opts.cpus is not None:
                os.sched_setaffinity(pid, opts.cpus)
            if opts.nice:
                os.setpriority(os.PRIO_PROCESS, pid, min(19, os.getpriority(os.PRIO_PROCESS, 0) + opts.nice))

    def look(self) -> None:
        """This process lives: what the kernel had ended at the last look was not it. In a group of its own there is
        nothing else; elsewhere one look is not enough, for a process may be ended while it is looked at."""
        if self._group is None:
            self._before, self._seen = self._seen, self._count()

    def kills(self) -> MemoryKills:
        """What the kernel has ended since the last look because memory ran out."""
        before, now = self._before, self._count()
        return MemoryKills(
            near=_more(before.near, now.near), by_limit=self._group is not None and self._group.was_full,
            machine=_more(before.machine, now.machine) or 0, stalls=_more(before.stalls, now.stalls),
        )  # fmt: skip

    def _count(self) -> _Counts:
        groups = cgroups(self._root, "memory") if self._group is None else (self._group.folder,)
        near = next((found for folder in groups if (found := oom_kills_of(folder)) is not None), None)
        if near is not None:
            return _Counts(near)
        machine = _counters(read_text(self._root / "proc/vmstat"))
        stalls = [number for name, number in machine.items() if name.startswith(_STALLS)]
        return _Counts(None, machine.get("oom_kill"), sum(stalls) if stalls else None)

    def close(self, seconds: float = 0.0) -> bool:
        """Give back what they took, tried again for so long; whether that is done. What is left, the next one
        removes."""
        ends_at = time.monotonic() + seconds
        while not (done := self._group is None or self._group.close()) and time.monotonic() < ends_at:
            time.sleep(_AGAIN_SECONDS)
        return done


def check_cpus(opts: ProcessOpts) -> None:
    """Raises `InvalidOption` for CPUs that this process may not use itself."""
    if opts.cpus is not None and (others := sorted(set(opts.cpus) - usable_cpus())):
        known = ", ".join(map(str, sorted(usable_cpus())))
        raise InvalidOption("process_opts.cpus", f"this process may not use CPU {others[0]}; it may use {known}")


def bound_data(pid: int, most: int) -> None:
    """Let a process map at most so many bytes of private data."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.prlimit(pid, resource.RLIMIT_DATA, (most, most))


def make_group(root: Path, pid: int, most: int) -> MemoryGroup | None:
    """A group with a limit, and this process in it; None where no group can be made."""
    for folder in _places(root):
        _sweep(folder, root)
        group = MemoryGroup(folder / f"{_PREFIX}{os.getpid()}-{pid}")
        with suppress(OSError):
            group.folder.mkdir()
            try:
                _bound(group.folder, most)
                (group.folder / "cgroup.procs").write_text(str(pid))
            except OSError:
                group.close()
                continue
            return group
    return None


def _places(root: Path) -> Iterator[Path]:
    """Where a group may be made: below that of this process, or beside it where it has been given more than one."""
    found = [folder for folder in cgroups(root, "memory") if folder.is_dir()]
    for folder in found[:1]:
        yield folder
        if (folder / "cgroup.controllers").is_file() and os.access(folder.parent / "cgroup.procs", os.W_OK):
            yield folder.parent


def _bound(folder: Path, most: int) -> None:
    """Raises `OSError` where the folder has no limits to be set."""
    if (folder / "memory.limit_in_bytes").exists():
        (folder / "memory.limit_in_bytes").write_text(str(most))
        swap = folder / "memory.memsw.limit_in_bytes"
    else:
        with open(folder / "memory.max", "r+") as file:  # not made where it is missing
            file.write(str(most))
        swap = folder / "memory.swap.max"
        most = 0
    with suppress(OSError):  # without it, what exceeds the limit is swapped out
        if swap.exists():
            swap.write_text(str(most))


def _sweep(folder: Path, root: Path) -> None:
    """Remove groups whose parents were killed, and those of processes that are gone. One with a process in it stays."""
    for old in folder.glob(f"{_PREFIX}*-*"):
        pids = old.name.removeprefix(_PREFIX).split("-")
        if all(pid.isdigit() for pid in pids) and not all((root / "proc" / pid).exists() for pid in pids):
            with suppress(OSError):
                old.rmdir()


def oom_kills_of(folder: Path) -> int | None:
    """How many processes of a group the kernel has ended because memory ran out; None where it does not say."""
    found = (_counters(read_text(folder / name)).get("oom_kill") for name in _EVENTS)
    return next((number for number in found if number is not None), None)


def _more(before: int | None, now: int | None) -> int | None:
    return None if before is None or now is None else max(0, now - before)


def _counters(text: str) -> dict[str, int]:
    """The lines of a file of the kernel that are a name and a number."""
    pairs = (line.partition(" ") for line in text.splitlines())
    return {name: int(number) for name, _, number in pairs if number.isdigit()}
