"""The tier in memory: copies that never change, within a quota, and the same reports to the cache."""

from __future__ import annotations

import numpy
import pytest
from helpers.fake_cache import Bench, key_of, meta_of, payload_of, put_of, tier_running
from helpers.runtime import until

from erllama_py import shared_memory
from erllama_py.errors import RowUnavailable, TierFailed, TierFull
from erllama_py.options.tiers import RamTier as RamSpec
from erllama_py.shared_memory.arena import Arena
from erllama_py.tiers.messages import (
    Delete,
    Get,
    Introduce,
    Put,
    ReservationGone,
    RowBytes,
    RowLost,
    RowStored,
    Sweep,
    TierRows,
    TierUp,
    Touch,
)
from erllama_py.tiers.ram import RamTier

pytestmark = pytest.mark.anyio

QUOTA = 1 << 20


def ram() -> RamTier:
    """The tier, not started."""
    return RamTier("ram", RamSpec(QUOTA))


def used(bench: Bench) -> int:
    """What the tier's books say."""
    assert isinstance(bench.tier, RamTier)
    return bench.tier.used


async def test_a_row_comes_back_as_it_was_put() -> None:
    """Read-only, without another copy, and untouched by what happens to the memory it came from."""
    async with tier_running(ram) as bench:
        meta = meta_of(1)
        reused = numpy.frombuffer(bytearray(payload_of(meta.key, meta.payload_bytes)), numpy.uint8)
        row = await bench.ref.call(Put(7, RowBytes(meta, reused.data, put_of(meta).row.logits)))
        reused[:] = 0
        assert bench.cache.told(RowStored) == [RowStored("ram", 7, row)]
        first, second = await bench.ref.call(Get(meta.key)), await bench.ref.call(Get(meta.key))
        assert first.payload == payload_of(meta.key, meta.payload_bytes)
        assert first.logits == put_of(meta).row.logits
        assert first.payload.readonly
        assert first.payload.obj is second.payload.obj


async def test_rows_lie_where_other_processes_can_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once there is such a process; a row that is restored in it is not copied."""
    arena = Arena()
    arena.share()
    monkeypatch.setattr(shared_memory, "allocate", arena.allocate)
    async with tier_running(ram) as bench:
        meta = meta_of(1)
        await bench.ref.call(put_of(meta))
        row = await bench.ref.call(Get(meta.key))
        assert arena.locate(row.payload) is not None
        await bench.ref.call(Delete((meta.key,)))
        assert arena.segments
        del row
        await until(lambda: not arena.segments)  # the thread that made the copy lets go of it, sooner or later


async def test_a_cache_that_comes_later_gets_all_reports() -> None:
    """Rows outlive the cache's actor."""
    async with tier_running(ram) as bench:
        assert bench.cache.reports == [] or isinstance(bench.cache.reports[0], TierUp)
        await bench.put(1)
        bench.ref.cast(Touch(key_of(1), 3, 9.0))
        bench.cache.reports.clear()
        bench.ref.cast(Introduce())
        (row,) = await bench.cache.opened()
        assert (row.meta.key, row.hits, row.used_at) == (key_of(1), 3, 9.0)
        assert [type(report) for report in bench.cache.reports] == [TierUp, TierRows]


async def test_the_quota_holds_for_rows_that_come_at_once() -> None:
    """Each is looked at when the one before it is stored; bytes are given back when a row goes."""
    async with tier_running(ram) as bench:
        bench.cache.gate.clear()
        first = bench.ref.begin_call(put_of(meta_of(1, 600_000)))
        await bench.cache.asked.wait()
        second = bench.ref.begin_call(put_of(meta_of(2, 600_000)))
        bench.cache.gate.set()
        row = await first.wait()
        with pytest.raises(TierFull):
            await second.wait()
        assert used(bench) == row.nbytes
        assert await bench.ref.call(Delete((key_of(1), key_of(5)))) == row.nbytes
        assert used(bench) == 0
        await bench.put(2, 600_000)
        assert await bench.ref.call(Sweep()) == 0


async def test_the_same_row_again_takes_no_more() -> None:
    """The newer copy stands in for the older one."""
    async with tier_running(ram) as bench:
        row = await bench.put(1)
        await bench.put(1)
        assert used(bench) == row.nbytes


@pytest.mark.parametrize("how", ["refused", "wrong size"])
async def test_a_row_that_is_not_stored_leaves_nothing(how: str) -> None:
    """Refused by the cache, or not what it says."""
    async with tier_running(ram) as bench:
        if how == "refused":
            bench.cache.stands = False
            with pytest.raises(ReservationGone):
                await bench.put(1)
        else:
            message = put_of(meta_of(1))
            with pytest.raises(TierFailed):
                await bench.ref.call(Put(1, RowBytes(message.row.meta, message.row.payload[::2], message.row.logits)))
        with pytest.raises(RowUnavailable):
            await bench.ref.call(Get(key_of(1)))
        assert bench.cache.told(RowLost) == []
        assert used(bench) == 0
