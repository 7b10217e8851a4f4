"""Calls of the operating system that fail, wait, die or are watched at a chosen stage of publishing.

`at_stage` is called on the writer's thread before the call itself. `Dying` stands for the end of the process: from
then on nothing works, so nothing is tidied up either.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from enum import Enum

from erllama_py.tiers.publish import Files

GUARD_SECONDS = 10


class Stage(Enum):
    """The stages that touch the directory, in order. `REPLACE` comes only where another file has the name."""

    CREATE = "create"
    ALLOCATE = "allocate"
    WRITE = "write"
    SYNC = "sync"
    LINK = "link"
    REPLACE = "replace"
    UNLINK = "unlink"
    SYNC_DIRECTORY = "sync_directory"


class Died(BaseException):
    """The process ended here."""


class TamperedFiles(Files):
    """See the module's text."""

    def __init__(self, at_stage: Callable[[Stage], None]) -> None:
        self.at_stage = at_stage

    def create(self, rows_fd: int, name: str) -> int:
        self.at_stage(Stage.CREATE)
        return super().create(rows_fd, name)

    def allocate(self, fd: int, nbytes: int) -> None:
        self.at_stage(Stage.ALLOCATE)
        super().allocate(fd, nbytes)

    def write(self, fd: int, parts: Sequence[bytes | memoryview], offset: int) -> None:
        self.at_stage(Stage.WRITE)
        super().write(fd, parts, offset)

    def sync(self, fd: int) -> None:
        self.at_stage(Stage.SYNC)
        super().sync(fd)

    def link(self, rows_fd: int, temp: str, name: str) -> None:
        self.at_stage(Stage.LINK)
        super().link(rows_fd, temp, name)

    def replace(self, rows_fd: int, temp: str, name: str) -> None:
        self.at_stage(Stage.REPLACE)
        super().replace(rows_fd, temp, name)

    def unlink(self, rows_fd: int, name: str) -> None:
        self.at_stage(Stage.UNLINK)
        super().unlink(rows_fd, name)

    def sync_directory(self, rows_fd: int) -> None:
        self.at_stage(Stage.SYNC_DIRECTORY)
        super().sync_directory(rows_fd)


class Failing:
    """Raises `error` at `stage`, `times` times."""

    def __init__(self, stage: Stage, error: OSError, times: int = 1) -> None:
        self.stage, self.error, self.left = stage, error, times

    def __call__(self, stage: Stage) -> None:
        if stage is self.stage and self.left:
            self.left -= 1
            raise self.error


class Dying:
    """Ends everything as soon as `stage` is reached."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.dead = stage, False

    def __call__(self, stage: Stage) -> None:
        self.dead = self.dead or stage is self.stage
        if self.dead:
            raise Died(stage)


class Waiting:
    """Waits at the first pass of `stage` until it is let go on; `reached` tells the loop."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.reached = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._go_on = threading.Event()

    def __call__(self, stage: Stage) -> None:
        if stage is self.stage and not self._go_on.is_set():
            self._loop.call_soon_threadsafe(self.reached.set)
            assert self._go_on.wait(GUARD_SECONDS)

    def go_on(self) -> None:
        """Let the thread go on."""
        self._go_on.set()
