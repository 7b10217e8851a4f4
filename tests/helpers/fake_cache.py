"""A cache for the tests of tiers, and rows to put into them.

`FakeCache` is an actor that goes by the cache's name: it keeps what tiers tell it and answers `Recheck`. `tier_running`
runs a tier beside it. A row's bytes are a function of its key, so that a test can tell whole rows from others.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from erllama_py.actors import Actor, ActorRef, ActorRun, Answer, Names, Raised, Reply
from erllama_py.actors.running import Run
from erllama_py.tiers.base import TierActor
from erllama_py.tiers.messages import (
    CACHE,
    MakeRoom,
    Put,
    Recheck,
    RowBytes,
    RowMeta,
    StoredRow,
    TierReport,
    TierRows,
    tier_actor_name,
)
from helpers.checkpoints import quiet_loop

R = TypeVar("R")
KEY_BYTES = 32


def key_of(number: int) -> bytes:
    """The key of the test's row `number`."""
    return hashlib.sha256(b"row %d" % number).digest()


def payload_of(key: bytes, nbytes: int) -> bytes:
    """The only right bytes for a row."""
    return hashlib.shake_128(key).digest(nbytes)


def meta_of(number: int, payload_bytes: int = 20_000, logits_bytes: int = 400) -> RowMeta:
    """Row `number`, of 256 tokens."""
    return RowMeta(
        key=key_of(number), parent=bytes(KEY_BYTES), start=0, end=256, tokens=bytes(range(256)) * 4,
        fingerprint=b"f" * KEY_BYTES, quant_bits=4, ctx_params_hash=b"c" * KEY_BYTES, build="test 1",
        payload_bytes=payload_bytes, logits_bytes=logits_bytes, reason="cold", created_at=1_700_000_000.0 + number,
        prefill_seconds=0.5,
    )  # fmt: skip


def put_of(meta: RowMeta, reservation: int = 1) -> Put:
    """The message that stores this row."""
    payload = memoryview(payload_of(meta.key, meta.payload_bytes))
    return Put(reservation, RowBytes(meta, payload, payload_of(meta.key[::-1], meta.logits_bytes)))


class FakeCache(Actor[Any]):
    """Keeps reports in order. `stands` answers the next rechecks; a closed `gate` lets them wait. The next tier
    without room may remove `room`."""

    def __init__(self) -> None:
        self.reports: list[TierReport] = []
        self.stands = True
        self.room: tuple[bytes, ...] = ()
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self._changed = asyncio.Event()

    async def handle(self, message: Any, reply: Reply[Any] | None) -> Answer | None:
        if isinstance(message, MakeRoom):
            room, self.room = self.room, ()
            return Answer(room)
        if isinstance(message, Recheck):
            self.asked.set()
            await self.gate.wait()
            return Answer(self.stands)
        self.reports.append(message)
        self._changed.set()
        return None

    def told(self, kind: type[R]) -> list[R]:
        """The reports of one kind."""
        return [report for report in self.reports if isinstance(report, kind)]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds that can only begin to hold with a report."""
        while not holds():
            self._changed.clear()
            await self._changed.wait()

    async def opened(self) -> list[StoredRow]:
        """Wait until the tier has looked at all of its files; its rows."""
        await self.until(lambda: any(batch.done == batch.total for batch in self.told(TierRows)))
        return [row for batch in self.told(TierRows) for row in batch.rows]


class Bench:
    """One tier and one cache, running."""

    def __init__(self, names: Names, cache: FakeCache, beside: Run, tier: TierActor, run: Run) -> None:
        self.names, self.cache, self.beside, self.tier, self.run = names, cache, beside, tier, run
        self.ref: ActorRef[Any] = tier.ref

    async def put(self, number: int, payload_bytes: int = 20_000) -> StoredRow:
        """Store row `number`."""
        row: StoredRow = await self.ref.call(put_of(meta_of(number, payload_bytes)))
        return row


@asynccontextmanager
async def tier_running(make: Callable[[], TierActor], cache: FakeCache | None = None) -> AsyncIterator[Bench]:
    """A tier beside a cache; raises what its `init` raised. Both are stopped at the end, and nothing is left."""
    async with quiet_loop():
        names, cache = Names(), cache or FakeCache()
        kept_cache = cache
        beside = Run(CACHE, lambda: ActorRun(CACHE, lambda: kept_cache, names))
        await beside.ready
        tier = make()
        name = tier_actor_name(tier.tier)
        run = Run(name, lambda: ActorRun(name, lambda: tier, names))
        try:
            await asyncio.wait((run.ready, run.task), return_when=asyncio.FIRST_COMPLETED)
            if isinstance(run.exit, Raised):
                raise run.exit.error
            yield Bench(names, cache, beside, tier, run)
        finally:
            run.request_stop()
            await asyncio.wait((run.task,))
            cache.gate.set()
            beside.request_stop()
            await asyncio.wait((beside.task,))


def bytes_in(root: Path) -> int:
    """What all files below `root` take, in blocks; a file with two names counts once. Read while others write."""
    sizes: dict[int, int] = {}
    for path in root.rglob("*"):
        try:
            facts = path.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if path.is_file():
            sizes[facts.st_ino] = -(-facts.st_size // 4096) * 4096
    return sum(sizes.values())


def temp_files(root: Path) -> list[str]:
    """The names of temp files below `root`."""
    return [path.name for path in root.rglob("*.tmp")]
