"""The cache's actor by itself, among a tier and a saver that are played here: what it tells them, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from helpers.checkpoints import quiet_loop
from helpers.rows import IDENTITY, chain, meta, stored
from helpers.runtime import until

from erllama_py.actors import Actor, ActorRef, Names, Reply, actor_child
from erllama_py.actors.running import Run
from erllama_py.cache.actor import CacheActor
from erllama_py.cache.book import TRY_SHARE
from erllama_py.cache.eviction import PORTION
from erllama_py.cache.keys import pack_tokens
from erllama_py.cache.messages import (
    SAVER,
    CacheMessage,
    EvictBytes,
    Find,
    Gc,
    ListTiers,
    ReadCounters,
    Remove,
    Removed,
    Save,
    SaveEnded,
    Used,
    Write,
)
from erllama_py.cache.reservation import row_bytes
from erllama_py.tiers.messages import CACHE, RowLost, RowMeta, RowStored, TierRows, TierUp

pytestmark = pytest.mark.anyio

MANY = 5 * PORTION
STORY = list(range(100))


class Played(Actor[Any]):
    """Keeps what it is told, and lets go of rows at once."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    async def handle(self, message: Any, reply: Reply[Any] | None) -> None:
        self.told.append(message)
        if isinstance(message, Write | Remove):
            keys = message.keys if isinstance(message, Remove) else message.victims
            self.names.cast(CACHE, Removed(message.tier, keys, True), bounded=False)
            if reply is not None:
                reply.send(1000 * len(keys))


class Bench:
    """A cache's actor with a saver."""

    def __init__(self, actor: CacheActor, saver: Played) -> None:
        self.actor, self.saver = actor, saver
        self.ref: ActorRef[Any] = actor.ref

    def tell(self, *messages: CacheMessage) -> None:
        for message in messages:
            self.ref.cast(message, bounded=False)

    async def settled(self) -> dict[str, float]:
        """The counters, once everything that was told has been taken; also what that made the saver say."""
        for _ in range(10):
            await self.ref.call(ListTiers())
        counters: dict[str, float] = await self.ref.call(ReadCounters())
        return counters

    def tier(self, rows: Sequence[RowMeta], quota: int = 1 << 40) -> None:
        """The tier `disk` runs, and has these rows of 1,000 bytes."""
        self.tell(TierUp("disk", "disk", quota))
        self.tell(TierRows("disk", tuple(map(stored, rows)), len(rows), len(rows)))

    async def save(self, number: int, payload_bytes: int = 1) -> list[Write]:
        """Hand a row over; what the saver was told to write by then."""
        row = meta([number], 0, 1, payload_bytes=payload_bytes)
        self.tell(Save(meta=row, tier="disk", payload=memoryview(b"x")))
        await self.settled()
        return [message for message in self.saver.told if isinstance(message, Write)]

    def find(self, number: int, tokens: Sequence[int]) -> Reply[Any]:
        """Begin a look-up, which pins what it finds."""
        return self.ref.begin_call(
            Find(holder="m", request_id=number, identity=IDENTITY, tokens=pack_tokens(tokens), cuttable=False, tier="")
        )

    def removed(self) -> list[bytes]:
        """The keys of rows that the saver was told to remove."""
        return [key for message in self.saver.told if isinstance(message, Remove) for key in message.keys]


@asynccontextmanager
async def running() -> AsyncIterator[Bench]:
    async with quiet_loop():
        names, actor, saver = Names(), CacheActor(lambda: 0.0), Played()
        runs = [
            Run(CACHE, lambda: actor_child(CACHE, lambda: actor, names)),
            Run(SAVER, lambda: actor_child(SAVER, lambda: saver, names)),
        ]
        for run in runs:
            await run.ready
        try:
            yield Bench(actor, saver)
        finally:
            for run in runs:
                run.request_stop()
                await asyncio.wait((run.task,))


def used(number: int) -> Used:
    return Used(holder="m", request_id=number, kind="cold", rows=(), seconds=0.0)


# --- the loop turns ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["evict", "gc", "shrink"])
async def test_the_loop_turns_while_many_rows_go(how: str) -> None:
    """Between two turns no more of them leave the index than a portion."""
    async with running() as bench:
        rows = [meta([number, 1], int(how == "gc"), 2) for number in range(MANY)]
        bench.tier(rows, 1 if how == "shrink" else 1 << 40)
        seen = [len(rows)]
        message = Gc() if how == "gc" else EvictBytes(1 << 40, ("disk",))
        reply = None if how == "shrink" else bench.ref.begin_call(message)
        await until(lambda: len(bench.actor.index) > 0)
        while len(bench.actor.index):
            seen.append(len(bench.actor.index))
            await asyncio.sleep(0)
        assert max(before - after for before, after in pairwise(seen)) <= PORTION
        assert len(seen) > MANY // PORTION
        if reply is not None:
            assert await reply.wait() == 1000 * MANY
        counters = await bench.settled()
        assert counters["evicted.disk"] == MANY
        assert bench.actor.index.books["disk"].used() == 0


async def test_a_tier_that_goes_is_forgotten_at_once_and_freed_bit_by_bit() -> None:
    """Nothing of it is found any more; its memory is freed while the loop turns."""
    async with running() as bench:
        bench.tier([meta([number], 0, 1) for number in range(MANY)])
        await bench.settled()
        book = bench.actor.index.books["disk"]
        bench.tell(TierUp("disk", "disk", 1 << 40))
        await until(lambda: bench.actor.index.books.get("disk") is not book)
        assert len(bench.actor.index) == 0
        seen = [MANY]
        while book.rows:
            await asyncio.sleep(0)
            seen.append(len(book.rows))
        assert max(before - after for before, after in pairwise(seen)) <= PORTION


# --- rows that an engine refuses -----------------------------------------------------------------------------


async def test_a_refused_row_that_somebody_else_reads_goes_when_nobody_does() -> None:
    """It is hidden at once; its bytes stay until the last pin on it is gone."""
    (row,) = chain(STORY, 10)
    async with running() as bench:
        bench.tier([row])
        for number in (1, 2):
            assert (await bench.find(number, STORY[:10]).wait()).length == 10
        bench.tell(RowLost("disk", row.key, "refused"), used(1))
        counters = await bench.settled()
        assert counters["bad.refused"] == 1
        hit = await bench.find(3, STORY[:10]).wait()
        assert (hit.length, hit.miss.reason) == (0, "bad")
        assert bench.removed() == []
        assert bench.actor.index.books["disk"].used() == 1000
        bench.tell(used(3), used(2))
        await bench.settled()
        assert bench.removed() == [row.key]
        assert bench.actor.index.books["disk"].used() == 0


async def test_a_refused_row_that_nobody_reads_goes_at_once() -> None:
    """Whoever found it has let go of it by then."""
    (row,) = chain(STORY, 10)
    async with running() as bench:
        bench.tier([row])
        bench.tell(RowLost("disk", row.key, "refused"))
        await bench.settled()
        assert bench.removed() == [row.key]


# --- a tier without room -------------------------------------------------------------------------------------


async def test_a_tier_that_says_that_it_is_full_gives_up_rows_for_the_next_save() -> None:
    """Its quota is not what keeps a row out: there are bytes that the cache does not know, or its disk is small."""
    async with running() as bench:
        bench.tier([meta([number], 0, 1) for number in range(40)])
        (first,) = await bench.save(100)
        bench.tell(SaveEnded("disk", first.reservation, "TierFull"))
        _, second = await bench.save(101)
        bench.tell(RowStored("disk", second.reservation, stored(second.meta)))
        counters = await bench.settled()
        assert (first.victims, len(second.victims)) == ((), -(-row_bytes(second.meta) // 1000))
        assert (counters["saves.dropped.TierFull"], counters["saves.cold"]) == (1, 1)
        assert bench.removed() == []
        assert bench.actor.index.books["disk"].capacity == 40_000 + 1000 // TRY_SHARE


async def test_a_save_that_too_many_rows_would_have_to_go_for_makes_room_for_the_next() -> None:
    """It is dropped for want of room, and with it goes as much as can at once."""
    async with running() as bench:
        bench.tier([meta([number], 0, 1) for number in range(MANY)], 1000 * MANY)
        nbytes = 1000 * PORTION * 3 // 2
        assert await bench.save(MANY, nbytes) == []
        assert len(bench.removed()) == PORTION
        counters = await bench.settled()
        assert (counters["saves.dropped.no_room"], counters["evicted.disk"]) == (1, PORTION)
        (write,) = await bench.save(MANY, nbytes)
        assert 0 < len(write.victims) < PORTION
