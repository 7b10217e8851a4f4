"""The cache's actor by itself, beside a fake tier that keeps the messages it gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from erllama_py.actors import Actor, ActorRef, ActorRun, Names, Reply
from erllama_py.actors.running import Run
from erllama_py.cache.actor import CacheActor
from erllama_py.cache.clock import Clock
from erllama_py.cache.keys import pack_tokens
from erllama_py.cache.messages import (
    CacheMessage,
    Find,
    ListTiers,
    ReadCounters,
    Save,
    Used,
)
from erllama_py.tiers.messages import CACHE, Delete, Put, Removed, RowBytes, RowMeta, StoredRow, TierRows, TierUp
from helpers.checkpoints import quiet_loop
from helpers.rows import IDENTITY, meta, stored


class Played(Actor[Any]):
    """Keeps the messages it gets, and removes rows at once."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.left: dict[bytes, StoredRow] = {}  # rows that cannot be removed

    async def handle(self, message: Any, reply: Reply[Any] | None) -> None:
        self.told.append(message)
        freed = 0
        if isinstance(message, Delete):
            gone = tuple(key for key in message.keys if key not in self.left)
            left = tuple(self.left[key] for key in message.keys if key in self.left)
            self.names.cast(CACHE, Removed("disk", gone, True, left), bounded=False)
            freed = 1000 * len(gone)
        if reply is not None:
            reply.send(freed)


class Bench:
    """A cache's actor, and an actor for the tier `disk`."""

    def __init__(self, actor: CacheActor, disk: Played) -> None:
        self.actor, self.disk = actor, disk
        self.ref: ActorRef[Any] = actor.ref

    def tell(self, *messages: CacheMessage) -> None:
        """Cast them."""
        for message in messages:
            self.ref.cast(message, bounded=False)

    async def settled(self) -> dict[str, float]:
        """The counters, once every message has been handled; also those that the tier sent for it."""
        for _ in range(10):
            await self.ref.call(ListTiers())
        counters: dict[str, float] = await self.ref.call(ReadCounters())
        return counters

    def tier(self, rows: Sequence[RowMeta], quota: int = 1 << 40) -> None:
        """The tier `disk` runs, and has these rows of 1,000 bytes."""
        self.tell(TierUp("disk", "disk", quota))
        self.tell(TierRows("disk", tuple(map(stored, rows)), len(rows), len(rows)))

    async def save(self, number: int, payload_bytes: int = 1) -> list[Put]:
        """Hand a row over; what the tier was asked to store by then."""
        return await self.save_row(meta([number], 0, 1, payload_bytes=payload_bytes))

    async def save_row(self, row: RowMeta, pack_seconds: float = 0.0) -> list[Put]:
        """The same with a row that is given."""
        self.tell(Save(row=RowBytes(row, memoryview(b"x")), tier="disk", pack_seconds=pack_seconds))
        await self.settled()
        return [message for message in self.disk.told if isinstance(message, Put)]

    def find(self, number: int, tokens: Sequence[int], parent_key: bytes | None = None) -> Reply[Any]:
        """Begin a look-up, which pins what it finds; it waits for a minute for what it names."""
        return self.ref.begin_call(
            Find(
                holder="m", request_id=number, identity=IDENTITY, tokens=pack_tokens(tokens), cuttable=False, tier="",
                parent_key=parent_key, wait_seconds=60.0 if parent_key else 0.0,
            )
        )  # fmt: skip

    def removed(self) -> list[bytes]:
        """The keys of rows that the tier was asked to remove."""
        return [key for message in self.disk.told if isinstance(message, Delete) for key in message.keys]


@asynccontextmanager
async def running(clock: Clock | None = None) -> AsyncIterator[Bench]:
    """One whose clock stands at 0, unless it is given one."""
    async with quiet_loop():
        names, actor, disk = Names(), CacheActor(clock or Clock(lambda: 0.0, lambda: 0.0)), Played()
        runs = [
            Run(CACHE, lambda: ActorRun(CACHE, lambda: actor, names)),
            Run("tier:disk", lambda: ActorRun("tier:disk", lambda: disk, names)),
        ]
        for run in runs:
            await run.ready
        try:
            yield Bench(actor, disk)
        finally:
            for run in runs:
                run.request_stop()
                await asyncio.wait((run.task,))


def used(number: int) -> Used:
    """A look-up of which nothing came."""
    return Used(holder="m", request_id=number, kind="cold", rows=(), seconds=0.0)
