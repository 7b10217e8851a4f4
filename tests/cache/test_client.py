"""The cache as a model sees it: what is read is what was found, or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from helpers.rows import chain, meta

from erllama_py.actors import Actor, ActorRun, Names, Reply
from erllama_py.actors.running import Run
from erllama_py.cache.client import CacheClient
from erllama_py.cache.messages import Located, RowBytes
from erllama_py.errors import TierFailed
from erllama_py.tiers.messages import Get, RowMeta

pytestmark = pytest.mark.anyio

STORY = list(range(30))
_, ROW = chain(STORY, 10, 20)


class PlayedTier(Actor[Get]):
    """Answers with a row of this description, whatever it is asked for."""

    def __init__(self, row: RowMeta) -> None:
        self.row = row

    async def handle(self, message: Get, reply: Reply[Any] | None) -> None:
        assert reply is not None
        reply.send(RowBytes(self.row, memoryview(b"x"), b""))


@pytest.mark.parametrize(
    ("content", "is_it"),
    [
        (ROW, True),
        (meta(STORY, 0, 20), False),  # saved again with another start
        (msgspec.structs.replace(ROW, end=21), False),
        (msgspec.structs.replace(ROW, key=b"k" * 32), False),
    ],
)
async def test_a_row_that_is_not_the_one_that_was_found_is_not_read(content: RowMeta, is_it: bool) -> None:
    """By its key and the positions that it spans."""
    async with client_of(PlayedTier(content)) as client:
        read = await client.read(Located(ROW, "disk", 1000), 60.0)
    assert (read is not None) == is_it


class FailingTier(Actor[Get]):
    """Fails each read with an error, or says nothing."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    async def handle(self, message: Get, reply: Reply[Any] | None) -> None:
        assert reply is not None
        if self.error is not None:
            reply.fail(self.error)


@pytest.mark.parametrize("error", [MemoryError(), ValueError("odd"), TierFailed("disk", "p"), None])
async def test_whatever_goes_wrong_while_a_row_is_read_is_no_row(error: Exception | None) -> None:
    """An error of any kind; and an answer that does not come in time."""
    async with client_of(FailingTier(error)) as client:
        assert await client.read(Located(ROW, "disk", 1000), 60.0 if error is not None else 0.01) is None


@asynccontextmanager
async def client_of(tier: Actor[Get]) -> AsyncIterator[CacheClient]:
    """A client beside a tier of this kind, called `disk`."""
    names = Names()
    run = Run("tier:disk", lambda: ActorRun("tier:disk", lambda: tier, names))
    await run.ready
    try:
        yield CacheClient(names)
    finally:
        run.request_stop()
        await asyncio.wait((run.task,))
