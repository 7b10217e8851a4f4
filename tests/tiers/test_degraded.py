"""A directory that cannot be written, is full, or is not there any more: said once, and well again by itself."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.directory_tier import path_of, served, tier_at, used, works
from helpers.fake_cache import (
    Bench,
    bytes_in,
    key_of,
    meta_of,
    put_of,
    temp_files,
    tier_running,
)
from helpers.tampered_files import Failing, Stage, TamperedFiles, Waiting

from erllama_py.errors import TierFailed, TierFull, TierLocked
from erllama_py.tiers.lock import open_place
from erllama_py.tiers.messages import Delete, Removed, RowLost, StoredRow, Sweep, TierHealth, TierRows
from erllama_py.tiers.publish import Files

pytestmark = pytest.mark.anyio


def rows_told(bench: Bench) -> list[StoredRow]:
    """The rows that were found in the directory."""
    return [row for batch in bench.cache.told(TierRows) for row in batch.rows]


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


async def test_rows_that_could_not_be_deleted_are_served_as_before(tmp_path: Path) -> None:
    """The cache gets a report of which are gone and which are left; the books count these, and they can be deleted
    later."""
    broken = [False]

    def at_stage(stage: Stage) -> None:
        if broken[0]:
            raise OSError(errno.EROFS, "injected")

    async with tier_running(lambda: tier_at(tmp_path, TamperedFiles(at_stage))) as bench:
        for number in range(3):
            await bench.put(number)
        broken[0] = True
        assert await bench.ref.call(Delete((key_of(0), key_of(1)))) == 0
        assert [row.meta.key for row in bench.cache.told(Removed)[0].left] == [key_of(0), key_of(1)]
        assert used(bench) == bytes_in(tmp_path)
        assert [await served(bench, number) for number in range(3)] == [True] * 3
        broken[0] = False
        await works(bench, tmp_path)
        assert await bench.ref.call(Delete((key_of(0),))) > 0
        assert bench.cache.told(Removed)[1] == Removed("d", (key_of(0),), ok=True)
        assert [path_of(tmp_path, number).exists() for number in range(3)] == [False, True, True]
        assert used(bench) == bytes_in(tmp_path)


async def test_what_a_row_extends_stays_with_it(tmp_path: Path) -> None:
    """One file cannot be removed. The rows before it would be of no use without it, nor it without them."""
    kept = path_of(tmp_path, 2).name

    class OneStuck(Files):
        def unlink(self, rows_fd: int, name: str) -> None:
            if name == kept:
                raise OSError(errno.EPERM, "injected")
            super().unlink(rows_fd, name)

    async with tier_running(lambda: tier_at(tmp_path, OneStuck())) as bench:
        for number in range(4):
            parent = key_of(number - 1) if number else bytes(32)
            meta = msgspec.structs.replace(meta_of(number), start=256 * number, end=256 * (number + 1), parent=parent)
            await bench.ref.call(put_of(meta))
        await bench.ref.call(Delete(tuple(key_of(number) for number in (3, 2, 1, 0))))
        (removed,) = bench.cache.told(Removed)
        assert (removed.keys, len(removed.left)) == ((key_of(3),), 3)
        assert [await served(bench, number) for number in range(4)] == [True] * 3 + [False]


async def test_a_directory_under_a_rows_name_counts_as_a_row_that_is_gone(tmp_path: Path) -> None:
    """It is none of ours: its bytes are not in the books, and it is left where it is."""
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.put(1)
        path_of(tmp_path, 1).unlink()
        path_of(tmp_path, 1).mkdir()
        await bench.ref.call(Delete((key_of(1),)))
        assert bench.cache.told(Removed) == [Removed("d", (key_of(1),), ok=True)]
        assert bench.cache.told(TierHealth) == []
        assert path_of(tmp_path, 1).is_dir()
        await works(bench, tmp_path)


async def test_a_vanished_directory_is_made_again(tmp_path: Path) -> None:
    """The next put makes it, locks it, and tells which rows are gone."""
    root = tmp_path / "kv"
    async with tier_running(lambda: tier_at(root)) as bench:
        await bench.put(1)
        shutil.rmtree(root)
        await bench.put(2)
        assert bench.cache.told(RowLost) == [RowLost("d", key_of(1), "gone")]
        assert bench.cache.told(TierHealth) == []
        await works(bench, root)


async def test_a_directory_that_was_renamed_is_not_written_any_more(tmp_path: Path) -> None:
    """What is put lies where it is looked for after a restart; and the rows are back with the directory."""
    root, away = tmp_path / "kv", tmp_path / "away"
    async with tier_running(lambda: tier_at(root)) as bench:
        await bench.put(1)
        root.rename(away)
        await bench.put(2)
        assert [path.name for path in (away / "rows").iterdir()] == [path_of(root, 1).name]
        assert path_of(root, 2).exists()
        assert not await served(bench, 1)
        assert await served(bench, 2)
        shutil.rmtree(root)
        away.rename(root)
        await bench.put(3)
        await bench.cache.until(lambda: any(row.meta.key == key_of(1) for row in rows_told(bench)))
        assert await served(bench, 1)
        assert not await served(bench, 2)
        assert used(bench) == bytes_in(root)


async def test_an_ill_tier_serves_what_it_can_still_read(tmp_path: Path) -> None:
    """Its directory was renamed, and something else is in the way of a new one."""
    root, away = tmp_path / "kv", tmp_path / "away"
    async with tier_running(lambda: tier_at(root)) as bench:
        await bench.put(1)
        root.rename(away)
        root.touch()
        for _ in range(2):
            with pytest.raises(TierFailed, match=str(root)):
                await bench.put(2)
            assert await served(bench, 1)
        assert bench.cache.told(RowLost) == []
        with pytest.raises(TierLocked):
            open_place("other", str(away))
        root.unlink()
        await works(bench, root)
        open_place("other", str(away)).close()


async def test_a_directory_that_another_tier_took_meanwhile_is_left_alone(tmp_path: Path) -> None:
    """It was removed, and made again by another owner: that lock stands."""
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


async def test_a_device_that_hangs_is_a_problem_until_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No caller waits for the save: nobody would hear of it."""
    monkeypatch.setattr("erllama_py.tiers.base.STUCK_SECONDS", 0.01)
    hanging = Waiting(Stage.SYNC)
    async with tier_running(lambda: tier_at(tmp_path, TamperedFiles(hanging))) as bench:
        bench.ref.cast(put_of(meta_of(1)))
        await bench.cache.until(lambda: bool(bench.cache.told(TierHealth)))
        (health,) = bench.cache.told(TierHealth)
        assert "has not ended for" in str(health.problem)
        hanging.go_on()
        await bench.cache.until(lambda: len(bench.cache.told(TierHealth)) > 1)
        assert bench.cache.told(TierHealth)[1:] == [TierHealth("d", None)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KB; skipped where none may be mounted."""
    root = tmp_path / "small"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k,mode=700", "tmpfs", str(root)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("file systems cannot be mounted here")
    yield root
    subprocess.run(["umount", str(root)], check=True)


async def test_a_device_smaller_than_the_quota_is_like_a_smaller_quota(small_disk: Path) -> None:
    """Each row that finds no room is refused as one above the quota is, and fits once others have gone."""
    async with tier_running(lambda: tier_at(small_disk)) as bench:
        await bench.put(0, 150_000)
        await bench.put(1, 150_000)
        for number in range(2, 6):
            with pytest.raises(TierFull, match="ENOSPC"):
                await bench.put(number, 150_000)
            assert await served(bench, number - 2)
            await bench.ref.call(Delete((key_of(number - 2),)))
            await bench.put(number, 150_000)
        assert [health.problem is None for health in bench.cache.told(TierHealth)] == [False, True] * 4
        assert used(bench) == bytes_in(small_disk)


@pytest.mark.parametrize("stage", [Stage.CREATE, Stage.ALLOCATE, Stage.WRITE, Stage.SYNC, Stage.LINK])
async def test_a_row_that_finds_no_room_is_tried_once_more_when_others_have_gone(tmp_path: Path, stage: Stage) -> None:
    """The cache says which. Nothing of the first attempt is left, and the tier has no problem."""
    full = Failing(stage, OSError(errno.ENOSPC, "injected"))
    full.left = 0
    async with tier_running(lambda: tier_at(tmp_path, TamperedFiles(full))) as bench:
        await bench.put(1)
        full.left, bench.cache.room = 1, (key_of(1),)
        await works(bench, tmp_path, 2)
        assert not path_of(tmp_path, 1).exists()
        assert bench.cache.told(Removed) == [Removed("d", (key_of(1),), ok=True)]
        assert bench.cache.told(TierHealth) == []
        full.left, bench.cache.room = 2, (key_of(2),)
        with pytest.raises(TierFull, match="ENOSPC"):
            await bench.put(3)
        await works(bench, tmp_path, 3)


async def test_bytes_that_the_cache_does_not_know_are_made_room_for(tmp_path: Path) -> None:
    """The quota is the tier's: it asks for what is missing."""
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.put(1, 500_000)
        (tmp_path / "rows" / "letter").write_bytes(bytes(400_000))
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.cache.opened()
        with pytest.raises(TierFull):
            await bench.put(2, 200_000)
        bench.cache.room = (key_of(1),)
        await works(bench, tmp_path, 2)


async def test_a_file_system_that_is_read_only_is_opened_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a program that is started again has its rows. The directory is locked, and written once it can be."""
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.put(1)
    (tmp_path / "rows" / "12-3.tmp").write_bytes(bytes(5000))
    with monkeypatch.context() as device:
        for name in ("fchmod", "fsync", "fdatasync", "unlink", "link", "rename", "pwrite", "ftruncate"):
            device.setattr(os, name, read_only)
        device.setattr(os, "open", opened_for_reading(os.open))
        async with tier_running(lambda: tier_at(tmp_path)) as bench:
            await bench.cache.opened()
            assert await served(bench, 1)
            with pytest.raises(TierFailed, match="EROFS"):
                await bench.put(2)
            with pytest.raises(TierLocked):
                open_place("other", str(tmp_path))
            assert used(bench) == bytes_in(tmp_path)
            device.undo()
            await works(bench, tmp_path)
            assert await served(bench, 1)


def read_only(*args: Any, **options: Any) -> int:
    """A call of a file system that is read-only."""
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def opened_for_reading(call: Callable[..., int]) -> Callable[..., int]:
    """`os.open` there."""

    def opened(path: Any, flags: int, *args: Any, **options: Any) -> int:
        exists = True
        try:
            os.stat(path, dir_fd=options.get("dir_fd"))
        except FileNotFoundError:
            exists = False
        if exists and flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, "exists")
        if flags & (os.O_RDWR | os.O_WRONLY):
            read_only()
        return call(path, flags, *args, **options)

    return opened
