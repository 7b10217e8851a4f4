"""A directory that cannot be written, is full, or is not there any more: said once, and well again by itself."""

from __future__ import annotations

import errno
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.directory_tier import served, tier_at, used, works
from helpers.fake_cache import (
    bytes_in,
    key_of,
    temp_files,
    tier_running,
)
from helpers.tampered_files import TamperedFiles

from erllama_py.errors import RowUnavailable, TierFailed
from erllama_py.tiers.lock import open_place
from erllama_py.tiers.messages import Delete, Get, RowLost, Sweep, TierHealth
from erllama_py.tiers.publish import Stage

pytestmark = pytest.mark.anyio


async def test_what_cannot_be_removed_stays_counted_and_is_tried_again(tmp_path: Path) -> None:
    """A file system that turns read-only keeps the temp file, so its bytes are still taken."""
    broken = [False]

    def at_stage(stage: Stage) -> None:
        if stage is Stage.SYNC and not bench.cache.told(TierHealth):
            broken[0] = True
        if broken[0]:
            raise OSError(errno.EROFS, "injected")

    async with tier_running(lambda: tier_at(tmp_path, TamperedFiles(at_stage))) as bench:
        with pytest.raises(TierFailed):
            await bench.put(1)
        assert len(temp_files(tmp_path)) == 1
        assert used(bench) == bytes_in(tmp_path)
        assert await bench.ref.call(Sweep()) == 0
        broken[0] = False
        await works(bench, tmp_path)
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await works(bench, tmp_path)


async def test_a_vanished_directory_is_made_again(tmp_path: Path) -> None:
    """The put that finds out fails; the next one makes it, locks it, and tells which rows are gone."""
    root = tmp_path / "kv"
    async with tier_running(lambda: tier_at(root)) as bench:
        await bench.put(1)
        shutil.rmtree(root)
        with pytest.raises(TierFailed):
            await bench.put(2)
        await bench.put(3)
        assert bench.cache.told(RowLost) == [RowLost("d", key_of(1), "gone")]
        assert [health.problem is None for health in bench.cache.told(TierHealth)] == [False, True]
        await works(bench, root)


async def test_a_directory_that_was_moved_away_and_back_brings_its_rows(tmp_path: Path) -> None:
    """As a file system does that is unmounted and mounted; what is under the path meanwhile is left alone."""
    root, away = tmp_path / "kv", tmp_path / "away"
    async with tier_running(lambda: tier_at(root)) as bench:
        await bench.put(1)
        shutil.copytree(root, away)
        shutil.rmtree(root)
        with pytest.raises(TierFailed):
            await bench.put(2)
        with pytest.raises(RowUnavailable):
            await bench.ref.call(Get(key_of(1)))
        away.rename(root)
        await bench.put(2)
        assert await served(bench, 1)
        assert used(bench) == bytes_in(root)


async def test_a_directory_that_another_tier_took_meanwhile_is_left_alone(tmp_path: Path) -> None:
    """It was removed, and made again by somebody else: their lock stands."""
    root = tmp_path / "kv"
    async with tier_running(lambda: tier_at(root)) as bench:
        shutil.rmtree(root)
        other = open_place("other", str(root))
        for _ in range(2):
            with pytest.raises(TierFailed):
                await bench.put(1)
        assert list((root / "rows").iterdir()) == []
        other.close()
        await works(bench, root)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KB; skipped where none may be mounted."""
    root = tmp_path / "small"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(root)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("file systems cannot be mounted here")
    yield root
    subprocess.run(["umount", str(root)], check=True)


async def test_a_disk_that_fills_up_takes_rows_again_once_there_is_room(small_disk: Path) -> None:
    """The quota allows more than there is; the rows that are there are served meanwhile."""
    async with tier_running(lambda: tier_at(small_disk)) as bench:
        await bench.put(1, 200_000)
        with pytest.raises(TierFailed, match="ENOSPC"):
            await bench.put(2, 200_000)
        assert await served(bench, 1)
        await bench.ref.call(Delete((key_of(1),)))
        await bench.put(2, 200_000)
        assert [health.problem is None for health in bench.cache.told(TierHealth)] == [False, True]
        assert used(bench) == bytes_in(small_disk)
