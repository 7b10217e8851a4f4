"""The saver: one queue for each tier, and a job that fails is the only one that does."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from helpers.checkpoints import quiet_loop, turns
from helpers.rows import meta
from helpers.runtime import until

from erllama_py.actors import Actor, Names, Reply, actor_child
from erllama_py.actors.running import Run
from erllama_py.buffers import BufferPool
from erllama_py.cache.messages import SAVER, Flush, Remove, Removed, SaveEnded, Write
from erllama_py.cache.saver import Saver
from erllama_py.errors import TierFull
from erllama_py.tiers.messages import CACHE, Delete, Put, tier_actor_name

pytestmark = pytest.mark.anyio


class PlayedTier(Actor[Any]):
    """Fails with the next of `errors`, and answers else, unless it is `silent`; a closed `gate` lets all wait, and
    closes again behind each that is let through `one_by_one`."""

    def __init__(self) -> None:
        self.done: list[Put | Delete] = []
        self.errors: list[Exception | None] = []
        self.silent = False
        self.one_by_one = False
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def handle(self, message: Put | Delete, reply: Reply[Any] | None) -> None:
        assert reply is not None
        self.asked.set()
        await self.gate.wait()
        if self.one_by_one:
            self.gate.clear()
        if self.silent:
            return
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            reply.fail(error)
            return
        self.done.append(message)
        reply.send(len(message.keys) if isinstance(message, Delete) else None)


class PlayedCache(Actor[Any]):
    """Keeps what the saver says."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    async def handle(self, message: Any, reply: Reply[Any] | None) -> None:
        self.told.append(message)


class Bench:
    """A saver between a cache and two tiers, `slow` and `fast`."""

    def __init__(self) -> None:
        self.names, self.cache, self.saver = Names(), PlayedCache(), Saver()
        self.tiers = {name: PlayedTier() for name in ("slow", "fast")}

    def write(self, number: int, tier: str, payload: memoryview | None = None) -> None:
        """Hand a row over."""
        row = meta([number], 0, 1)
        self.saver.ref.cast(
            Write(tier=tier, reservation=number, victims=(), meta=row, payload=payload or memoryview(b""), logits=b"")
        )

    async def problems(self) -> dict[int, str | None]:
        """How each row ended, once all have."""
        await self.saver.ref.call(Flush())
        return {ended.reservation: ended.problem for ended in self.cache.told if isinstance(ended, SaveEnded)}


def itself(actor: Actor[Any]) -> Actor[Any]:
    return actor


@asynccontextmanager
async def running() -> AsyncIterator[Bench]:
    async with quiet_loop():
        bench = Bench()
        actors: dict[str, Actor[Any]] = {CACHE: bench.cache, SAVER: bench.saver}
        actors |= {tier_actor_name(name): tier for name, tier in bench.tiers.items()}
        runs = [
            Run(name, partial(actor_child, name, partial(itself, actor), bench.names)) for name, actor in actors.items()
        ]
        for run in runs:
            await run.ready
        try:
            yield bench
        finally:
            for tier in bench.tiers.values():
                tier.gate.set()
            for run in runs[::-1]:
                run.request_stop()
                await asyncio.wait((run.task,))


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Without the garbage collector: what refers to itself is never freed."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("error", [ValueError("too long"), MemoryError(), TierFull("fast", "no room")])
async def test_a_row_that_cannot_be_written_costs_no_other(error: Exception) -> None:
    """Whatever is raised for it: it ends with the name of that, and those behind it are stored."""
    async with running() as bench:
        bench.tiers["fast"].errors = [None, error]
        for number in range(5):
            bench.write(number, "fast")
        problems = await bench.problems()
        assert problems == {0: None, 1: type(error).__name__, 2: None, 3: None, 4: None}
        assert len(bench.tiers["fast"].done) == 4


async def test_rows_that_cannot_be_removed_are_told_and_cost_no_other() -> None:
    """The tier is asked what it has; the next row is stored."""
    async with running() as bench:
        bench.tiers["fast"].errors = [ValueError("what?")]
        reply = bench.saver.ref.begin_call(Remove("fast", (b"k",)))
        bench.write(1, "fast")
        assert await reply.wait() == 0
        assert await bench.problems() == {1: None}
        assert Removed("fast", (b"k",), False) in bench.cache.told


async def test_a_slow_tier_holds_up_no_other() -> None:
    """Each has a queue of its own, in which things are done in turn."""
    async with running() as bench:
        slow, fast = bench.tiers["slow"], bench.tiers["fast"]
        slow.gate.clear()
        for number in range(6):
            bench.write(number, "fast" if number % 2 else "slow")
        await until(lambda: len(fast.done) == 3)
        assert slow.done == []
        slow.gate.set()
        await bench.problems()
        for tier, numbers in ((slow, (0, 2, 4)), (fast, (1, 3, 5))):
            assert [put.reservation for put in tier.done if isinstance(put, Put)] == [*numbers]


async def test_a_flush_waits_for_what_was_handed_over_before_and_no_longer() -> None:
    """In every queue; what comes after it, however steadily, is not its concern."""
    async with running() as bench:
        for number, (name, tier) in enumerate(bench.tiers.items()):
            tier.one_by_one = True
            tier.gate.clear()
            bench.write(number, name)
        reply = bench.saver.ref.begin_call(Flush())
        for name in bench.tiers:
            bench.write(7, name)
        bench.tiers["fast"].gate.set()
        await until(lambda: bench.tiers["fast"].done != [])
        await turns()
        assert not reply.settled
        bench.tiers["slow"].gate.set()
        with anyio.fail_after(10):
            await reply.wait()
        assert [len(tier.done) for tier in bench.tiers.values()] == [1, 1]
        for tier in bench.tiers.values():
            tier.one_by_one = False
            tier.gate.set()
        await bench.problems()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("how", ["the tier fails", "the tier ends"])
async def test_the_buffer_of_a_row_that_was_not_saved_is_free_at_once(how: str) -> None:
    """Not only when the garbage collector comes by: as long as it is out, other rows find none."""
    pool = BufferPool(1 << 20)
    async with running() as bench:
        fast = bench.tiers["fast"]
        fast.errors, fast.silent = [TierFull("fast", "no room")], how == "the tier ends"
        bench.write(1, "fast", pool.take(100))
        await fast.asked.wait()
        if fast.silent:
            fast.ref.stop()
        assert await bench.problems() == {1: "ActorEnded" if fast.silent else "TierFull"}
        assert pool.leased == 0
