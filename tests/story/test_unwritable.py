"""A tier whose device fails for a while, beside the real cache: what is on it stays, and it comes back by itself."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from helpers.cache import opened, tier_info
from helpers.small_device import SmallDevice
from helpers.tampered_files import Stage, TamperedFiles

import erllama_py as erllama
from erllama_py.cache.keys import Identity

pytestmark = pytest.mark.anyio

IDENTITY = Identity(b"f" * 32, 4, b"c" * 32)
QUOTA = 1 << 20
PAYLOAD = 50_000


class Device:
    """Every call of it fails with `error` while that is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: int | None = None
        monkeypatch.setattr("erllama_py.tiers.directory.Files", lambda: TamperedFiles(self._at_stage))

    def _at_stage(self, stage: Stage) -> None:
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))


class Rows:
    """Rows without a model, by number."""

    def __init__(self, runtime: erllama.Runtime) -> None:
        self.cache = runtime.cache

    async def put(self, *numbers: int) -> None:
        """Save them one after the other."""
        for number in numbers:
            await self.cache.put(IDENTITY, [number, 1, 2], 0, payload(number), tier="d")
            await self.cache.flush()

    async def found(self, *numbers: int) -> list[int]:
        """Which of them are found; what is read of them is right."""
        found = []
        for number in numbers:
            prefix = await self.cache.find(IDENTITY, [number, 1, 2])
            if prefix.rows:
                assert (await self.cache.read(*prefix.rows[0])).payload == payload(number)
                found.append(number)
        return found


def payload(number: int) -> bytes:
    """The only right bytes of a row."""
    return number.to_bytes(2, "little") * (PAYLOAD // 2)


@pytest.mark.slow
@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.EIO, errno.ENOSPC])
async def test_what_lies_in_a_directory_that_cannot_be_written_is_not_lost(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quota is full, so each save would evict: but nothing can be removed. Once it can, the next save is saved."""
    device = Device(monkeypatch)
    async with erllama.Runtime(tiers={"d": erllama.DiskTier(tmp_path, QUOTA)}) as runtime:
        rows = Rows(runtime)
        await rows.put(*range(30))
        kept = await rows.found(*range(30))
        assert 15 < len(kept) < 30
        device.error = error
        await rows.put(*range(100, 130))
        assert await rows.cache.evict_bytes(1 << 30, ["d"]) == 0
        assert await rows.cache.gc() == 0
        assert await rows.found(*range(30), *range(100, 130)) == kept
        device.error = None
        for number in range(200, 210):
            await rows.put(number)
            assert await rows.found(number) == [number]
        there = await rows.found(*range(300))
        assert len(there) == len(kept)
        assert (await rows.cache.counters())["evicted.d"] == 30 - len(kept) + 10
    async with erllama.Runtime(tiers={"d": erllama.DiskTier(tmp_path, QUOTA)}) as runtime:
        await opened(runtime)
        assert await Rows(runtime).found(*range(300)) == there


@pytest.mark.slow
async def test_a_neighbour_that_fills_the_device_does_not_empty_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes whatever becomes free. What is there is found, and once it has enough, rows are saved again."""
    device = SmallDevice(QUOTA // 2)
    monkeypatch.setattr("erllama_py.tiers.directory.Files", lambda: device)
    async with erllama.Runtime(tiers={"d": erllama.DiskTier(tmp_path, QUOTA)}) as runtime:
        rows = Rows(runtime)
        await rows.put(*range(20))
        kept = await rows.found(*range(20))
        assert len(kept) == 9
        assert (await tier_info(runtime)).problem is None
        device.greedy = True
        await rows.put(*range(100, 160))
        left = await rows.found(*range(200))
        assert 4 <= len(left) < len(kept)
        device.greedy, device.size = False, QUOTA
        for number in range(200, 230):
            await rows.put(number)
            assert await rows.found(number) == [number]
        assert len(await rows.found(*range(300))) == 18


async def test_a_device_that_is_full_of_others_files_leaves_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of half the size fit where one went; larger ones than all that is there cost none."""
    device = SmallDevice(QUOTA)
    monkeypatch.setattr("erllama_py.tiers.directory.Files", lambda: device)
    async with erllama.Runtime(tiers={"d": erllama.DiskTier(tmp_path, QUOTA)}) as runtime:
        rows = Rows(runtime)
        await rows.put(*range(5))
        device.size = device.used()
        await rows.cache.put(IDENTITY, [9, 9], 0, bytes(600_000), tier="d")
        await rows.cache.flush()
        assert await rows.found(*range(5)) == list(range(5))
        await rows.put(5)
        assert len(await rows.found(*range(6))) == 5
