"""The live feed: one task makes a snapshot a second for all who watch, and ends when the last of them leaves.

    watch ─▶ newest? ─ no ─▶ wait ─▶ the next one …

Whoever reads slowly gets the newest snapshot when it is ready for one: there is no queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec

from erllama_py.serve.core.problems import Problem
from erllama_py.serve.page.snapshot import Reading, Snapshot, snapshot
from erllama_py.watch.log import get_logger

INTERVAL_SECONDS = 1.0
MOST_WATCHERS = 64  # pages that are open; each gets some kilobytes a second
RETRY_SECONDS = 10

_encode = msgspec.json.Encoder().encode


class FeedFailed(Exception):
    """No snapshot can be made; the log says why."""


async def a_second() -> None:
    """What lies between two snapshots."""
    await asyncio.sleep(INTERVAL_SECONDS)


class Feed:
    """See the module. `read` reads, `pause` is awaited between two readings."""

    def __init__(self, read: Callable[[], Awaitable[Reading]], pause: Callable[[], Awaitable[None]] = a_second) -> None:
        self._read, self._pause = read, pause
        self._making: asyncio.Task[None] | None = None
        self._watchers = 0
        self._newest, self._number = b"", 0
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Feed {self._watchers} watchers, {self._number} snapshots>"

    @property
    def watchers(self) -> int:
        """How many watch."""
        return self._watchers

    async def once(self) -> Snapshot:
        """A snapshot for somebody who does not watch: without rates."""
        return snapshot(await self._read())

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Watch]:
        """While somebody watches. Raises `Problem` where too many do."""
        if self._watchers >= MOST_WATCHERS:
            message = f"{MOST_WATCHERS} pages watch this server, as many as it lets"
            raise Problem("overloaded", message, code="too_many_watchers", retry_after=RETRY_SECONDS)
        self._watchers += 1
        if self._making is None:
            self._newest = b""  # what was true when somebody watched last is not shown as true now
            self._making = asyncio.create_task(self._make())
        try:
            yield Watch(self)
        finally:
            self._watchers -= 1
            if not self._watchers:
                making, self._making = self._making, None
                making.cancel()
                await asyncio.wait({making})

    async def after(self, number: int) -> tuple[int, bytes]:
        """The newest snapshot that is not the one of this number, as JSON, once there is one. Raises `FeedFailed`."""
        while not self._newest or self._number == number:
            making = self._making
            if making is None or making.done():
                raise FeedFailed
            await self._changed.wait()
        return self._number, self._newest

    async def _make(self) -> None:
        before: Reading | None = None
        try:
            while True:
                reading = await self._read()
                self._newest, before = _encode(snapshot(reading, before)), reading
                self._number += 1
                self._wake()
                await self._pause()
        except Exception as error:
            get_logger().error("the live feed failed", exc_info=error)
            self._newest = b""
        finally:
            asyncio.get_running_loop().call_soon(self._wake)  # by then the task is done

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Watch:
    """One who watches."""

    def __init__(self, feed: Feed) -> None:
        self._feed, self._seen = feed, 0

    async def next(self) -> bytes:
        """The newest snapshot that it has not seen, as JSON. Raises `FeedFailed`."""
        self._seen, newest = await self._feed.after(self._seen)
        return newest
