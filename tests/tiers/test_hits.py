"""Hits that cannot be: no file says them, and none that does is believed."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest
import xxhash
from helpers.clock import ManualClock
from helpers.directory_tier import QUOTA, path_of
from helpers.fake_cache import key_of, tier_running
from helpers.players import until

from erllama_py.buffers import BufferPool
from erllama_py.options.tiers import DiskTier
from erllama_py.tiers import row_file
from erllama_py.tiers.directory import USAGE_INTERVAL, DirectoryTier
from erllama_py.tiers.messages import Flush, Touch

USAGE = slice(row_file.USAGE_OFFSET, row_file.USAGE_OFFSET + row_file.USAGE_BYTES)


def usage_of(hits: int, used_at: float = 5.0) -> bytes:
    """As a file has it that was made by hand: its checksum holds."""
    usage = struct.pack("<Qd", hits, used_at)
    return usage + xxhash.xxh3_64_digest(usage)


@pytest.mark.parametrize("hits", [row_file.MAX_HITS + 1, 2**64 - 1, 2**64, 2**70])
def test_more_hits_than_can_be_are_not_written(hits: int) -> None:
    """The most that can be is."""
    assert row_file.encode_usage(hits, 5.0) == usage_of(row_file.MAX_HITS)


@pytest.mark.anyio
@pytest.mark.parametrize("hits", [row_file.MAX_HITS + 1, 2**64 - 1])
async def test_a_row_with_more_hits_than_can_be_counts_as_never_used_and_heals(tmp_path: Path, hits: int) -> None:
    """It is found, and its next use writes a number that can be; an actor that says too many breaks nothing."""
    clock = ManualClock()

    def tier() -> DirectoryTier:
        return DirectoryTier("d", DiskTier(str(tmp_path), QUOTA), BufferPool(0), clock=clock)

    async with tier_running(tier) as bench:
        await bench.put(1)
    path = path_of(tmp_path, 1)
    data = bytearray(path.read_bytes())
    data[USAGE] = usage_of(hits)
    path.write_bytes(data)
    async with tier_running(tier) as bench:
        (row,) = await bench.cache.opened()
        assert (row.hits, row.used_at) == (0, row.meta.created_at)
        bench.ref.cast(Touch(key_of(1), hits + 1, 7.0))
        await clock.sleeping()
        clock.advance(USAGE_INTERVAL)
    assert path.read_bytes()[USAGE] == usage_of(row_file.MAX_HITS, 7.0)


@pytest.mark.anyio
async def test_hits_are_written_though_a_wait_for_that_went_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next use begins anew."""
    clock = ManualClock()

    async def fail(seconds: float) -> None:
        raise asyncio.CancelledError

    async with tier_running(
        lambda: DirectoryTier("d", DiskTier(str(tmp_path), QUOTA), BufferPool(0), clock=clock)
    ) as bench:
        tier = bench.tier
        assert isinstance(tier, DirectoryTier)
        await bench.put(1)
        with monkeypatch.context() as short:
            short.setattr(clock, "sleep", fail)
            bench.ref.cast(Touch(key_of(1), 1, 7.0))
            await bench.ref.call(Flush())
            await until(lambda: tier._usage_due is None)
        bench.ref.cast(Touch(key_of(1), 2, 8.0))
        await clock.sleeping()
        clock.advance(USAGE_INTERVAL)
        await until(lambda: tier._usage == {})
        await bench.put(2)  # by the same thread, after it
        assert path_of(tmp_path, 1).read_bytes()[USAGE] == usage_of(2, 8.0)
