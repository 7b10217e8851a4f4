"""The queue of a tier: one change after the other, one that fails is the only one that does, readers do not wait."""

from __future__ import annotations

import asyncio
import errno
import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from helpers.checkpoints import turns
from helpers.directory_tier import tier_at
from helpers.fake_cache import Bench, key_of, meta_of, put_of, tier_running
from helpers.runtime import until
from helpers.tampered_files import Failing, Stage, TamperedFiles, Waiting

from erllama_py.actors import ActorEnded
from erllama_py.buffers import BufferPool
from erllama_py.errors import RowUnavailable, TierFull, TierStuck
from erllama_py.tiers import base
from erllama_py.tiers.base import TierActor
from erllama_py.tiers.messages import (
    Delete,
    Flush,
    Get,
    Introduce,
    Put,
    PutFailed,
    Removed,
    RowBytes,
    RowLost,
    RowStored,
    StoredRow,
    Sweep,
    TierRows,
)

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 60.0


class PlayedTier(TierActor):
    """Fails with the next of `errors`, and else does nothing but tell; a closed `gate` holds every change up, and
    closes again after each that is let through `one_by_one`."""

    def __init__(self) -> None:
        super().__init__("d", "disk", 1 << 20)
        self.done: list[Any] = []
        self.errors: list[Exception | None] = []
        self.one_by_one = False
        self.at_work = self.most_at_work = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def put(self, message: Put) -> StoredRow:
        await self._change(message.reservation)
        meta = message.row.meta
        return self.stored(message.reservation, StoredRow(meta=meta, nbytes=1, hits=0, used_at=0.0))

    async def delete(self, keys: Sequence[bytes]) -> int:
        await self._change(keys)
        return len(keys)

    async def sweep(self) -> int:
        await self._change("sweep")
        return 0

    async def get(self, key: bytes) -> RowBytes:
        raise RowUnavailable(self.tier, "played", key)

    async def _change(self, what: object) -> None:
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            await self.gate.wait()
            if self.one_by_one:
                self.gate.clear()
            if (error := self.errors.pop(0) if self.errors else None) is not None:
                raise error
            self.done.append(what)
        finally:
            self.at_work -= 1


def ended(bench: Bench) -> dict[int, str | None]:
    """How each row ended, in the order of the reports to the cache."""
    told = (report for report in bench.cache.reports if isinstance(report, RowStored | PutFailed))
    return {one.reservation: one.problem if isinstance(one, PutFailed) else None for one in told}


def cast_rows(bench: Bench, *numbers: int) -> None:
    """Hand rows over as the cache does; the number is the reservation's, too."""
    for number in numbers:
        bench.ref.cast(put_of(meta_of(number), number), bounded=False)


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Without the garbage collector: what refers to itself is never freed."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("error", [ValueError("too long"), MemoryError(), TierFull("d", "no room")])
async def test_a_row_that_cannot_be_written_costs_no_other(error: Exception) -> None:
    """Whatever is raised for it: it ends with the name of that, and those after it are stored."""
    tier = PlayedTier()
    async with tier_running(lambda: tier) as bench:
        tier.errors = [None, error]
        cast_rows(bench, *range(5))
        await bench.ref.call(Flush())
        assert ended(bench) == {0: None, 1: type(error).__name__, 2: None, 3: None, 4: None}
        assert tier.done == [0, 2, 3, 4]


async def test_rows_that_cannot_be_removed_are_reported_and_affect_no_other() -> None:
    """The cache asks what is there; the next row is stored."""
    tier = PlayedTier()
    async with tier_running(lambda: tier) as bench:
        tier.errors = [ValueError("what?")]
        bench.ref.cast(Delete((key_of(8), key_of(9))))
        cast_rows(bench, 1)
        await bench.ref.call(Flush())
        assert bench.cache.told(Removed) == [Removed("d", (key_of(8), key_of(9)), ok=False)]
        assert ended(bench) == {1: None}


async def test_everything_that_changes_a_tier_happens_one_at_a_time_in_order() -> None:
    """Parents before children, and room before the row that needs it; reported in that order."""
    tier = PlayedTier()
    async with tier_running(lambda: tier) as bench:
        tier.gate.clear()
        cast_rows(bench, 1, 2)
        bench.ref.cast(Delete((key_of(1),)))
        bench.ref.cast(Sweep())
        cast_rows(bench, 3)
        bench.ref.cast(Introduce())
        await bench.cache.until(lambda: len(bench.cache.told(TierRows)) == 2)
        assert (tier.done, tier.at_work) == ([], 1)
        tier.gate.set()
        await bench.ref.call(Flush())
        assert tier.done == [1, 2, (key_of(1),), "sweep", 3]
        assert tier.most_at_work == 1
        told = [type(one) for one in bench.cache.reports if isinstance(one, RowStored | Removed)]
        assert told == [RowStored, RowStored, Removed, RowStored]


async def test_readers_do_not_wait_for_a_blocked_writer(tmp_path: Path) -> None:
    """Nor does an introduction; a flush does, and it waits for no row that comes after it."""
    waiting = Waiting(Stage.SYNC)
    files = TamperedFiles(lambda stage: None)
    async with tier_running(lambda: tier_at(tmp_path, files)) as bench:
        await bench.put(1)
        files.at_stage = waiting
        cast_rows(bench, 2, 3)
        await waiting.reached.wait()
        flushing = bench.ref.begin_call(Flush())
        row = await bench.ref.call(Get(key_of(1)))
        assert row.meta.key == key_of(1)
        bench.ref.cast(Introduce())
        await bench.cache.until(lambda: len(bench.cache.told(TierRows)) == 2)
        assert not flushing.settled
        waiting.go_on()
        await flushing.wait()
        assert ended(bench) == {1: None, 2: None, 3: None}


async def test_a_flush_waits_for_what_was_handed_over_before_and_no_longer() -> None:
    """What comes after it, however steadily, is not its concern."""
    tier = PlayedTier()
    async with tier_running(lambda: tier) as bench:
        tier.one_by_one = True
        tier.gate.clear()
        cast_rows(bench, 1)
        flushing = bench.ref.begin_call(Flush())
        cast_rows(bench, 2)
        await turns()
        assert not flushing.settled
        tier.gate.set()
        with anyio.fail_after(10):
            await flushing.wait()
        assert tier.done == [1]
        tier.one_by_one = False
        tier.gate.set()
        await bench.ref.call(Flush())


async def test_a_row_that_waited_and_is_not_wanted_any_more_is_not_written(tmp_path: Path) -> None:
    """The row before it failed, or the cache is another one: no byte goes to the disk for it."""
    waiting, stages = Waiting(Stage.CREATE), Counter[Stage]()

    def at_stage(stage: Stage) -> None:
        stages[stage] += 1
        waiting(stage)

    async with tier_running(lambda: tier_at(tmp_path, TamperedFiles(at_stage))) as bench:
        cast_rows(bench, *range(1, 9))
        await waiting.reached.wait()
        bench.cache.stands = False
        waiting.go_on()
        await bench.ref.call(Flush())
        assert ended(bench) == dict.fromkeys(range(1, 9), "ReservationGone")
        assert (stages[Stage.CREATE], stages[Stage.WRITE], stages[Stage.LINK]) == (1, 2, 0)


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("how", ["refused", "a failing disk", "not a row", "the tier ends"])
async def test_the_buffer_of_a_row_that_was_not_saved_is_free_at_once(tmp_path: Path, how: str) -> None:
    """Not only when the garbage collector comes by: as long as it is out, other rows find none."""
    pool, meta = BufferPool(2 << 20), meta_of(1, payload_bytes=1000)
    at_stage = Failing(Stage.WRITE, OSError(errno.EIO, "injected")) if how == "a failing disk" else lambda stage: None
    waiting = Waiting(Stage.CREATE)
    async with tier_running(
        lambda: tier_at(tmp_path, TamperedFiles(waiting if how == "the tier ends" else at_stage))
    ) as bench:
        bench.cache.stands = how != "refused"

        def hand_over(number: int) -> None:
            payload = pool.take(999 if how == "not a row" else 1000)
            assert payload is not None
            bench.ref.cast(Put(number, RowBytes(meta, payload, bytes(meta.logits_bytes))))

        if how == "the tier ends":
            replies = bench.ref.begin_call(Flush())
            hand_over(1)
            hand_over(2)
            await waiting.reached.wait()
            bench.ref.stop()
            waiting.go_on()
            await asyncio.wait((bench.run.task,))
            assert replies.settled
            with pytest.raises(ActorEnded):
                await bench.ref.call(Flush())
        else:
            hand_over(1)
            await bench.ref.call(Flush())
            (problem,) = ended(bench).values()
            assert problem == ("ReservationGone" if how == "refused" else "TierFailed")
            assert bench.cache.told(RowLost) == []
        await until(lambda: pool.leased == 0)  # the writer's thread lets go of its last job by itself


async def test_no_caller_waits_for_ever_while_a_change_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that wait after it hear of it, also those that come later; it goes on, and so do they."""
    monkeypatch.setattr(base, "STUCK_SECONDS", 0.01)
    tier = PlayedTier()
    async with tier_running(lambda: tier) as bench:
        tier.gate.clear()
        cast_rows(bench, 1)
        for message in (Flush(), Delete((key_of(2),)), Sweep(), Flush()):
            with pytest.raises(TierStuck, match="a write or removal has not ended for") as stuck:
                await bench.ref.call(message)
            assert (stuck.value.tier, stuck.value.seconds > 0) == ("d", True)
        monkeypatch.setattr(base, "STUCK_SECONDS", GUARD_SECONDS)
        tier.gate.set()
        await until(lambda: len(tier.done) == 3)
        await bench.ref.call(Flush())
        assert tier.done == [1, (key_of(2),), "sweep"]
        assert ended(bench) == {1: None}
        assert [removed.ok for removed in bench.cache.told(Removed)] == [True]


async def test_no_caller_waits_for_ever_while_a_read_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow queue that moves is none of its business, and it is none of the queue's."""
    monkeypatch.setattr(base, "STUCK_SECONDS", 0.01)
    tier = PlayedTier()

    async def get(key: bytes) -> RowBytes:
        await tier.gate.wait()
        raise RowUnavailable("d", "played", key)

    monkeypatch.setattr(tier, "get", get)
    async with tier_running(lambda: tier) as bench:
        tier.gate.clear()
        with pytest.raises(TierStuck, match="a read has not ended for"):
            await bench.ref.call(Get(key_of(1)))
        monkeypatch.setattr(base, "STUCK_SECONDS", GUARD_SECONDS)
        await bench.ref.call(Flush())
        tier.gate.set()
        with pytest.raises(RowUnavailable):
            await bench.ref.call(Get(key_of(1)))


@pytest.mark.usefixtures("no_collection")
async def test_the_buffer_of_a_row_that_was_read_is_free_with_its_reader(tmp_path: Path) -> None:
    """Not when the garbage collector comes by: the rows of a long prompt are read one after the other, each into the
    memory of one before it."""
    tier = tier_at(tmp_path)
    async with tier_running(lambda: tier) as bench:
        for number in (1, 2, 3):
            await bench.put(number)
        for number in (1, 2, 3):
            assert len((await bench.ref.call(Get(key_of(number)))).payload) > 0
            await until(lambda: tier._buffers.leased == 0)
