"""The two files of a batch's answers while they grow: those of lines that went well, and those of lines that did not.

A disk that cannot be written holds a batch up and loses nothing: an answer is kept until there is room. One that cannot
synchronise what it took has maybe lost it: the run stops, and the next one reads what is there.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from erllama_py.serve.batches.answers import Answered
from erllama_py.serve.batches.disk import Disk, Growing, NotSynced
from erllama_py.serve.batches.lines import LineProblem
from erllama_py.watch.log import get_logger

RETRY_SECONDS = 5.0  # after which a disk that was full is tried again
FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class Stopped(Exception):
    """The batch does not go on in this process; what was to be written is not."""


class Outputs:
    """What is answered, and where more is written. `stopping` ends what waits for a disk."""

    def __init__(self, done: Growing, failed: Growing, known: tuple[Answered, Answered], stopping: asyncio.Event):
        self._files = {True: done, False: failed}
        self.lines: set[int] = known[0].lines | known[1].lines
        """Of the input, those that are answered."""
        self.completed, self.failed = len(known[0].lines), len(known[1].lines)
        self.problem: LineProblem | None = None
        """What holds the batch up now."""
        self._stopping = stopping
        self._writing = asyncio.Lock()

    @classmethod
    async def open(cls, disk: Disk, batch: str, paths: tuple[Path, Path], stopping: asyncio.Event) -> Self:
        """Both files of a batch, with what they hold. Raises `OSError`."""
        output, errors = paths
        known = (await _answered(disk, batch, output), await _answered(disk, batch, errors))
        done = await Growing.open(disk, output, known[0].size)
        return cls(done, await Growing.open(disk, errors, known[1].size), known, stopping)

    async def add(self, line: int, data: bytes, *, well: bool) -> None:
        """The answer to one line, once. Raises `Stopped`."""
        await self.add_all([(line, data)], well=well)

    async def add_all(self, answers: list[tuple[int, bytes]], *, well: bool) -> None:
        """Answers to several lines, in one go. Raises `Stopped`."""
        file, data = self._files[well], b"".join(data for _, data in answers)
        async with self._writing:
            await self._written(file, data)
            self.lines.update(line for line, _ in answers)
            self.completed += len(answers) if well else 0
            self.failed += 0 if well else len(answers)

    async def _written(self, file: Growing, data: bytes) -> None:
        while True:
            try:
                await file.append(data)
            except NotSynced as error:
                self._tell(error)
                self._stopping.set()
                raise Stopped from error
            except OSError as error:
                await self.held_up(error)
            else:
                self.problem = None
                return

    async def held_up(self, error: OSError) -> None:
        """Tell so, and wait until it may go well. Raises `Stopped`."""
        self._tell(error)
        await paused(RETRY_SECONDS, self._stopping)
        if self._stopping.is_set():
            raise Stopped

    def _tell(self, error: OSError) -> None:
        if self.problem is None:
            get_logger("erllama_py.batches").error("a batch is held up", error=str(error))
        self.problem = holding_up(error)

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of either file."""
        return self._files[True].size, self._files[False].size

    async def sync(self) -> None:
        """All of it outlives a loss of power from now on. Raises `OSError`."""
        for file in self._both():
            await file.sync()

    async def close(self) -> None:
        """Nothing is written any more."""
        async with self._writing:
            for file in self._both():
                await file.close()

    def _both(self) -> Iterator[Growing]:
        return iter(self._files.values())


def holding_up(error: OSError) -> LineProblem:
    """What a client is told of a batch that waits for its disk."""
    code = "disk_full" if error.errno in FULL else "disk_error"
    what = "the disk is full" if code == "disk_full" else "a file cannot be read or written"
    return LineProblem(code, f"the batch is held up and goes on by itself: {what}")


async def counted(disk: Disk, batch: str, paths: tuple[Path, Path]) -> tuple[int, int]:
    """How many lines of a batch went well, and how many failed, by the files. Raises `OSError`."""
    output, errors = paths
    return len((await _answered(disk, batch, output)).lines), len((await _answered(disk, batch, errors)).lines)


async def paused(seconds: float, unless: asyncio.Event) -> None:
    """Wait for so long, or until the event comes."""
    try:
        async with asyncio.timeout(seconds):
            await unless.wait()
    except TimeoutError:
        pass


async def _answered(disk: Disk, batch: str, path: Path) -> Answered:
    found = Answered(batch)
    try:
        async for piece in disk.pieces(path):
            await disk.do(found.feed, piece)
    except FileNotFoundError:
        pass
    return found
