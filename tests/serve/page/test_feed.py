"""The feed: one reading for all who watch, the newest for the slow, nothing for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from helpers.runtime import until

from erllama_py.serve.core.problems import Problem
from erllama_py.serve.operations.health import Health
from erllama_py.serve.page.feed import MOST_WATCHERS, Feed, FeedFailed
from erllama_py.serve.page.snapshot import Reading

pytestmark = pytest.mark.anyio


class Read:
    """Readings whose `open` is their number. The pause after each ends when the test says so."""

    def __init__(self, fails: Callable[[int], bool] = lambda number: False) -> None:
        self.count = 0
        self._fails = fails
        self._turn = asyncio.Semaphore(0)

    async def __call__(self) -> Reading:
        self.count += 1
        if self._fails(self.count):
            raise RuntimeError("no reading")
        return Reading(
            at=0.0, clock=float(self.count), health=Health(status="ok"), since=0.0, open=self.count, open_limit=9,
            draining=False, drills=True,
        )  # fmt: skip

    async def pause(self) -> None:
        await self._turn.acquire()

    async def more(self, count: int) -> None:
        """Let so many more be made."""
        due = self.count + count
        for _ in range(count):
            self._turn.release()
        await until(lambda: self.count == due)


def number(data: bytes) -> int:
    """Of a snapshot, that of its reading."""
    told: Any = msgspec.json.decode(data)
    opened: int = told["server"]["open"]
    return opened


async def test_all_who_watch_get_the_same_snapshots() -> None:
    """Each was read once."""
    read = Read()
    feed = Feed(read, read.pause)
    async with feed.watch() as one, feed.watch() as other:
        assert await one.next() == await other.next()
        await read.more(1)
        assert number(await one.next()) == number(await other.next()) == 2
    assert read.count == 2


async def test_who_is_slow_gets_the_newest() -> None:
    """What was made meanwhile is skipped: there is no queue."""
    read = Read()
    feed = Feed(read, read.pause)
    async with feed.watch() as slow:
        assert number(await slow.next()) == 1
        await read.more(5)
        assert number(await slow.next()) == 6


async def test_the_same_snapshot_comes_once() -> None:
    """Whoever has seen it waits for the next one."""
    read = Read()
    feed = Feed(read, read.pause)
    async with feed.watch() as one:
        await one.next()
        following = asyncio.create_task(one.next())
        await asyncio.sleep(0)
        assert not following.done()
        await read.more(1)
        assert number(await following) == 2


async def test_nothing_is_read_where_nobody_watches() -> None:
    """It stops with the last, and begins anew with the next: what was true before is not shown."""
    read = Read()
    feed, before = Feed(read, read.pause), asyncio.all_tasks()
    async with feed.watch() as one:
        await one.next()
    assert feed.watchers == 0
    assert asyncio.all_tasks() == before
    await asyncio.sleep(0)
    assert read.count == 1
    async with feed.watch() as again:
        assert number(await again.next()) == 2


async def test_a_reading_that_fails_ends_the_watch_and_not_the_feed() -> None:
    """All who wait are told; once they have left, the next one has a new chance."""
    read = Read(lambda count: count == 2)
    feed = Feed(read, read.pause)
    async with feed.watch() as one:
        await one.next()
        waiting = asyncio.create_task(one.next())
        await read.more(1)
        with pytest.raises(FeedFailed):
            await waiting
        async with feed.watch() as late:
            with pytest.raises(FeedFailed):
                await late.next()
    async with feed.watch() as again:
        assert number(await again.next()) == 3


async def test_so_many_may_watch_and_no_more() -> None:
    """One too many is told so; there is room again when one has left."""
    read = Read()
    feed = Feed(read, read.pause)
    watches = [feed.watch() for _ in range(MOST_WATCHERS)]
    for one in watches:
        await one.__aenter__()
    with pytest.raises(Problem, match="64 pages") as told:
        await feed.watch().__aenter__()
    assert (told.value.status, told.value.code) == (429, "too_many_watchers")
    await watches.pop().__aexit__(None, None, None)
    async with feed.watch() as one_more:
        assert number(await one_more.next()) >= 1
    for one in watches:
        await one.__aexit__(None, None, None)
    assert feed.watchers == 0
