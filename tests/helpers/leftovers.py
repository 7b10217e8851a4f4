"""What a process has of its own: descriptors, children, threads, mapped segments, shared files.

`belongings` counts them by kind, so that two counts can be compared: a socket that was closed and another one that was
opened are the same. `same_as` waits until nothing more is there than at first, and says what is; `wait_same_as` does
where there is no event loop. `open_files` are descriptors one by one, for what is closed at once. All of these look at
what is more than before: what other tests have left may go meanwhile.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from helpers.runtime import until

_NUMBERS = re.compile(r"[:\[]?\[?\d+\]?$")  # of sockets, pipes and the like
_GROUPS = Path("/sys/fs/cgroup")
GUARD_SECONDS = 20.0  # for a test gone wrong: it shall fail rather than hang


class OpenFile(NamedTuple):
    """A descriptor, and what it is of."""

    number: int
    inode: int
    name: str


def open_files() -> set[OpenFile]:
    """Those that this process has."""
    found = set[OpenFile]()
    for number in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # the one of this listing is closed by now
            found.add(OpenFile(number, os.fstat(number).st_ino, os.readlink(f"/proc/self/fd/{number}")))
    return found


def belongings() -> Counter[str]:
    """Everything that this process holds at the moment."""
    return Counter(
        [*_descriptors(), *_children(), *_threads(), *_segments(), *_shared_files(), *_memory_groups()],
    )


async def same_as(before: Counter[str]) -> None:
    """Wait until nothing is there that was not there `before`; fails with what is."""
    try:
        await until(lambda: not _more_than(before), GUARD_SECONDS)
    except TimeoutError:
        raise AssertionError(f"left behind: {dict(_more_than(before))}") from None


def wait_same_as(before: Counter[str], *, collects: bool = True) -> None:
    """As `same_as`, for a test without an event loop; what nobody refers to any more may have to be gone without a
    search for garbage. Blocks."""
    ends_at = time.monotonic() + GUARD_SECONDS
    while found := _more_than(before) if collects else belongings() - before:
        if time.monotonic() > ends_at:
            raise AssertionError(f"left behind: {dict(found)}")
        threading.Event().wait(0.001)


def _more_than(before: Counter[str]) -> Counter[str]:
    for handler in logging.root.handlers:  # errors that were logged refer to frames, and these to all that they had
        getattr(handler, "records", []).clear()
    gc.collect()
    return belongings() - before


def children() -> set[int]:
    """The processes that this one has begun and that have not been waited for."""
    found = set[int]()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            found.update(map(int, (task / "children").read_text().split()))
    return found


def _descriptors() -> list[str]:
    return ["descriptor of " + _NUMBERS.sub("", one.name) for one in open_files()]


def _children() -> list[str]:
    return ["child" for _ in children()]


def _threads() -> list[str]:
    """By the first two words of their names: the rest tells models apart."""
    return ["thread " + "-".join(one.name.split("-")[:2]) for one in threading.enumerate()]


def _segments() -> list[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return ["mapping of " + line.split(maxsplit=5)[5].split()[0] for line in lines if "/memfd:" in line]


def _shared_files() -> list[str]:
    folder = Path("/dev/shm")
    return [f"shared file {one.name}" for one in folder.iterdir()] if folder.is_dir() else []


def _memory_groups() -> list[str]:
    """Cgroups that were made for children of this process."""
    ours = f"erllama-{os.getpid()}-"
    folders = os.walk(_GROUPS)  # those that go meanwhile are passed over
    return [f"cgroup {name}" for _, names, _ in folders for name in names if name.startswith(ours)]
