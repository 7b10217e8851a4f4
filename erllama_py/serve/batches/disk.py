"""Files as batches use them: read in pieces, grown by whole lines, and replaced whole. All on threads of their own.

What is appended is there or not: where a disk has no room for all of a line, the part that it took is cut off again.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import aiofiles
from aiofiles.os import wrap

T = TypeVar("T")
PIECE = 1 << 18  # bytes that are read and looked at in one go: of them a thread holds the interpreter for a millisecond
SYNC_SECONDS = 1.0
"""So long after it was written an answer is synchronised: a loss of power costs no more. A kill costs none."""


class Disk:
    """The threads, and what is done on them."""

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(2, thread_name_prefix="erllama-batches")

    async def do(self, work: Callable[..., T], *arguments: Any) -> T:
        """A plain function, on a thread."""
        done: T = await wrap(work)(*arguments, executor=self.threads)
        return done

    async def pieces(self, path: Path) -> AsyncIterator[bytes]:
        """A file from its beginning. Raises `OSError`."""
        file = await aiofiles.open(path, "rb", executor=self.threads)
        try:
            while piece := await file.read(PIECE):
                yield piece
        finally:
            await file.close()

    def close(self) -> None:
        """No more work is taken; what is under way ends by itself."""
        self.threads.shutdown(wait=False)


class NotSynced(OSError):
    """A disk has not taken what it seemed to have. What of it is there is known when the file is read again."""


class Growing:
    """A file that grows by whole lines, and only here. What was appended outlives a loss of power a second later."""

    def __init__(self, disk: Disk, file: Any, size: int) -> None:
        self._disk, self._file, self.size = disk, file, size
        self._synced = size
        self._torn = False
        self._syncing: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    @classmethod
    async def open(cls, disk: Disk, path: Path, size: int) -> Growing:
        """The file, as long as its whole lines; what is torn after them is cut off. It is made where it is not there,
        and what there is outlives a loss of power. Raises `OSError`."""
        file: Any = await aiofiles.open(path, "ab", buffering=0, opener=_private, executor=disk.threads)
        try:
            await file.truncate(size)
            if size:  # a process that was killed may have left it in memory
                await disk.do(os.fsync, file.fileno())
            else:
                await disk.do(sync_folder, path.parent)
        except BaseException:
            await file.close()
            raise
        return cls(disk, file, size)

    async def append(self, data: bytes) -> None:
        """Whole lines. Raises `OSError`, and then nothing of them is there, or will be: what is appended next comes in
        their place. Raises `NotSynced` where what came before may be lost; nothing is to be appended any more."""
        self._take_in()
        await self._cut()
        rest = memoryview(data)
        self._torn = True
        try:
            while rest:
                rest = rest[await self._file.write(rest) :]
        except OSError:
            with suppress(OSError):  # else who appends next does, or who opens it next
                await self._cut()
            raise
        self._torn = False
        self.size += len(data)
        self._take_in()  # it may have ended without these lines, meanwhile
        if self._syncing is None:
            self._syncing = asyncio.create_task(self._sync_later())

    async def _cut(self) -> None:
        if self._torn:
            await self._file.truncate(self.size)
            self._torn = False

    def _take_in(self) -> None:
        """What synchronising has come to, if it is over."""
        if (syncing := self._syncing) is not None and syncing.done():
            self._syncing = None
            syncing.result()

    async def _sync_later(self) -> None:
        while self._synced < self.size:
            with suppress(TimeoutError):
                async with asyncio.timeout(SYNC_SECONDS):
                    await self._hurry.wait()
            size = self.size
            try:
                await self._disk.do(os.fsync, self._file.fileno())
            except OSError as error:
                raise NotSynced(error.errno, error.strerror) from error
            self._synced = size

    async def sync(self) -> None:
        """What was appended outlives a loss of power from now on. Raises `NotSynced`."""
        if self._syncing is None:
            return
        self._hurry.set()
        try:
            await self._syncing
        finally:
            self._syncing = None
            self._hurry.clear()

    async def close(self) -> None:
        """What was appended is synchronised as far as it can be. Allowed twice."""
        with suppress(NotSynced):  # who opens it next reads what is there
            await self.sync()
        await self._file.close()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


# --- on the threads -------------------------------------------------------------------------------------------------


def read_at(path: Path, offset: int, length: int) -> bytes:
    """A part of a file. Raises `OSError`."""
    with path.open("rb") as file:
        return os.pread(file.fileno(), length, offset)


def replaced(part: Path, path: Path) -> None:
    """A file by its own name, once it is whole. Raises `OSError`."""
    part.replace(path)


def write_whole(path: Path, data: bytes) -> None:
    """A file that is there as a whole, whatever ends the process. Raises `OSError`."""
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb", opener=_private) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def sync_folder(path: Path) -> None:
    """The names in a folder outlive a loss of power from now on. Raises `OSError`."""
    folder = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def lock(path: Path) -> int:
    """Hold a file for this process; the descriptor to close. Raises `BlockingIOError` where another one does."""
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(held)
        raise
    return held
