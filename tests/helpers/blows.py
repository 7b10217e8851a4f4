"""Ways in which a model's process ends from outside, and the moment for them: while its engine is in one operation.

A process is stopped, looked at, and let go on, until its page says that it is in the operation that is wanted: while it
stands still, the page cannot change. So a blow hits that operation and no other, however short it is. All of this
blocks: it is for a worker thread.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytest

from erllama_py.engine.process.child import Child
from erllama_py.engine.recorder import Operation

Blow = Literal["SIGSEGV", "SIGABRT", "SIGKILL", "SIGBUS", "SIGILL", "stop", "memory"]
SIGNALS: tuple[Blow, ...] = ("SIGSEGV", "SIGABRT", "SIGKILL", "SIGBUS", "SIGILL")
GUARD_SECONDS = 60.0  # for a test gone wrong: it shall fail rather than hang
_STACK_BYTES = 1 << 20
# Between two looks, at most: a process that is looked at works on. It grows with the looks, for a busy machine.
_PAUSE_SECONDS, _LONGEST_SECONDS = 0.0003, 0.003
_LOOKS = 2000  # that are short


class Gone(Exception):
    """The process has ended by itself."""


def known_children(monkeypatch: pytest.MonkeyPatch | None = None) -> dict[str, list[Child]]:
    """The processes that are made from now on, by the model's id; for good, without a `monkeypatch`."""
    made: dict[str, list[Child]] = {}
    begin = Child.__init__

    def noted(child: Child, model_id: str, *args: Any, **more: Any) -> None:
        begin(child, model_id, *args, **more)
        made.setdefault(model_id, []).append(child)

    (monkeypatch or pytest.MonkeyPatch()).setattr(Child, "__init__", noted)
    return made


def doing(child: Child) -> set[Operation]:
    """What its engines and embedders are in, those that have begun."""
    return {recorder.doing().operation for recorder in list(child._recorders.values())} - {"starting"}


def stand_in(child: Child, operation: Operation | None, unwanted: Callable[[], bool] = lambda: False) -> bool:
    """Have it stand still in an operation, or where it is; false where that is `unwanted` before it comes."""
    ends_at, looks = time.monotonic() + GUARD_SECONDS, 0
    while not unwanted():
        pid = child.process.pid
        if child.death is not None:
            raise Gone
        if pid is not None and doing(child):  # while it starts, it has no page, and its watchdog sees no beat
            _stop(pid)
            if operation is None or operation in doing(child):
                return True
            _tell(pid, signal.SIGCONT)
        if time.monotonic() > ends_at:
            raise AssertionError(f"never in {operation}: {child} is in {doing(child)}")
        looks += 1
        threading.Event().wait(random.uniform(0.0, min(_PAUSE_SECONDS * max(1.0, looks / _LOOKS), _LONGEST_SECONDS)))
    return False


def strike(child: Child, blow: Blow) -> None:
    """End a process that stands still."""
    pid = child.process.pid
    assert pid is not None
    if blow == "stop":  # it is left as it is, until its watchdog ends it
        return
    if blow == "memory":
        starve(pid)
    else:
        _tell(pid, signal.Signals[blow])
    _tell(pid, signal.SIGCONT)


def starve(pid: int) -> None:
    """Lower the limit of its cgroup to what it has, and have it take more: pages of its stacks that it never used."""
    limit = next(found for group in _groups_of(pid) if (found := _limit_of(Path(group))) is not None)
    used = limit.with_name("memory.usage_in_bytes" if limit.name == "memory.limit_in_bytes" else "memory.current")
    with suppress(OSError), open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:  # it is gone in between
        for number, page in enumerate(_unused_pages(pid)):
            if number % 16 == 0:
                _lower(limit, int(used.read_text()))
            memory.seek(page)
            memory.write(bytes(1))


def _lower(limit: Path, most: int) -> None:
    """To so many bytes, and as far below as the kernel can bring about; version 1 refuses the rest."""
    with suppress(OSError):
        while most > 0:
            limit.write_text(str(most := most - (64 << 10)))


def _unused_pages(pid: int) -> Iterator[int]:
    """Addresses in the lower halves of its stacks: mappings of megabytes above a page that nobody may touch."""
    guard = 0
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, rights = line.split()[:2]
        begin, end = (int(word, 16) for word in span.split("-"))
        if rights == "rw-p" and begin == guard and end - begin >= _STACK_BYTES:
            yield from range(begin, begin + (end - begin) // 2, 4096)
        guard = end if rights == "---p" and end - begin == 4096 else 0


def _groups_of(pid: int) -> list[str]:
    """Folders of the cgroups that a process is in, where memory may be bounded."""
    found: list[str] = []
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            roots = [f"/sys/fs/cgroup/{name}" for name in ("memory", "unified", "")]
            found += [root.rstrip("/") + path for root in roots]
    return found


def _limit_of(group: Path) -> Path | None:
    if not group.name.startswith("erllama-"):
        return None
    return next((group / name for name in ("memory.limit_in_bytes", "memory.max") if (group / name).is_file()), None)


def _stop(pid: int) -> None:
    """Returns once all its threads stand still."""
    _tell(pid, signal.SIGSTOP)
    while state(pid) not in "TtZX":
        pass


def state(pid: int) -> str:
    """The letter of a process's state; `X` where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return "X"


def _tell(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
