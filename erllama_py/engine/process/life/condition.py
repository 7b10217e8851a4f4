"""Whether a process could run at all since the last look: what the kernel says of its threads.

Formats: `/proc/PID/status`, `/proc/PID/task/TID/stat` (proc(5)); `schedstat` (kernel docs, scheduler/sched-stats.rst).
What cannot be read counts as running.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from erllama_py.cgroups import read_text
from erllama_py.engine.process.life.watchdog import Condition

HELD_SHARE = 0.5  # of the time between two looks that a thread has waited for a CPU


class _Task(NamedTuple):
    """What one thread has done so far, in nanoseconds, and its state."""

    ran: int
    waited: int  # as far as it is over: the kernel adds a wait when it ends
    state: str

    def ran_since(self, before: _Task, passed: float) -> float:
        """The part of the time since `before` in which it had a CPU."""
        return min(1.0, (self.ran - before.ran) / 1e9 / passed) if passed > 0 else 0.0

    def was_held(self, before: _Task, passed: float) -> bool:
        """Whether it has waited for most of the time since `before`. A wait that goes on is seen by its state."""
        waits = self.state == before.state == "R" and self.ran_since(before, passed) < 1.0 - HELD_SHARE
        return passed > 0 and (waits or (self.waited - before.waited) / 1e9 > HELD_SHARE * passed)


class Conditions:
    """What is read of one process. `root` is where `proc` lies."""

    def __init__(self, pid: int, root: Path = Path("/")) -> None:
        self._folder = root / "proc" / str(pid)
        self._tasks: dict[str, _Task] = {}
        self.ran = 0.0  # see `Look.ran`
        self._at: float | None = None

    def since_last(self, now: float) -> Condition:
        """The condition in the time since the last look; `now` is in seconds."""
        passed, self._at = 0.0 if self._at is None else now - self._at, now
        status = self._status()
        if status.get("TracerPid", "0") != "0":
            return "traced"
        before, self._tasks = self._tasks, self._read_tasks()
        if status.get("State", "").startswith(("T", "t")):
            return "stopped" if self._has_not_run(before) else "running"
        held = list(self._held(before, passed))
        self.ran = min(held, default=0.0)
        return "held" if held else "running"

    def catches(self, number: int) -> bool:
        """Whether it has a handler for a signal, which would end it otherwise."""
        try:
            return bool(int(self._status().get("SigCgt", "0"), 16) >> (number - 1) & 1)
        except ValueError:
            return False

    def _status(self) -> dict[str, str]:
        lines = read_text(self._folder / "status").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def _read_tasks(self) -> dict[str, _Task]:
        tasks = {}
        for task in sorted((self._folder / "task").glob("*")):
            words = read_text(task / "schedstat").split()
            ran, waited = map(int, words[:2]) if len(words) == 3 and "".join(words).isdigit() else (0, 0)
            tasks[task.name] = _Task(ran, waited, read_text(task / "stat").rpartition(")")[2].strip()[:1])
        return tasks

    def _has_not_run(self, before: dict[str, _Task]) -> bool:
        """One that ran since the last look was not stopped all the time."""
        return all(task.ran == before[name].ran for name, task in self._tasks.items() if name in before)

    def _held(self, before: dict[str, _Task], passed: float) -> Iterator[float]:
        """Of each thread that waits for a disk now, or has waited for a CPU for most of the time: how much it ran."""
        for name, task in self._tasks.items():
            if task.state == "D":
                yield 0.0
            elif name in before and task.was_held(before[name], passed):
                yield task.ran_since(before[name], passed)
