"""One directory, two owners: the second is refused with a clear error, until the first is gone, however it went."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from helpers.fake_cache import tier_running
from helpers.row_writer import kill, said, start_writer, tier_at

from erllama_py.errors import TierLocked

pytestmark = pytest.mark.anyio


@pytest.mark.slow
async def test_a_directory_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    """The error names the directory and the process; a removed lock lets nobody in, and a killed owner leaves none."""
    child = await asyncio.to_thread(start_writer, tmp_path)
    try:
        assert await asyncio.to_thread(said, child) == "open"
        for _ in range(2):
            with pytest.raises(TierLocked, match=f"{tmp_path} is open already, by the process {child.pid}"):
                async with tier_running(lambda: tier_at(tmp_path)):
                    pass
        assert int(await asyncio.to_thread(said, child)) >= 0
        (tmp_path / "lock").unlink()
        with pytest.raises(TierLocked):
            async with tier_running(lambda: tier_at(tmp_path)):
                pass
    finally:
        await asyncio.to_thread(kill, child)
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        assert await bench.cache.opened() != []


async def test_two_tiers_of_one_process_are_no_exception(tmp_path: Path) -> None:
    """The lock is the tier's; it is free as soon as the tier has ended."""
    async with tier_running(lambda: tier_at(tmp_path)):
        with pytest.raises(TierLocked):
            async with tier_running(lambda: tier_at(tmp_path)):
                pass
    async with tier_running(lambda: tier_at(tmp_path)):
        pass
