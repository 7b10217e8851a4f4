"""Reading rows: beside others that write them, and from files that cannot be read, for a moment or for good."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.directory_tier import hollow, path_of, served, tier_at, used, works
from helpers.fake_cache import bytes_in, key_of, tier_running
from helpers.held_thread import HeldThread

from erllama_py.buffers import BufferPool
from erllama_py.errors import RowUnavailable, TierFailed, TierStuck
from erllama_py.tiers.messages import Get, RowLost, Sweep, TierHealth
from erllama_py.tiers.scan import read_row

pytestmark = pytest.mark.anyio

READ_ROW = "erllama_py.tiers.directory.read_row"


def flip(path: Path) -> None:
    """Change one byte of the logits."""
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def link(path: Path) -> None:
    """A name that leads to another file."""
    path.unlink()
    path.symlink_to("/dev/null")


def pipe(path: Path) -> None:
    """A name that nothing can be read from at an offset."""
    path.unlink()
    os.mkfifo(path)


CHANGES: list[Callable[[Path], None]] = [flip, Path.unlink, link, pipe]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_a_row_that_is_put_while_a_bad_one_is_read_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    """The verdict is on the file that was read: the new one stays where it is, is known, and is no stray."""
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.put(1)
        change(path_of(tmp_path, 1))
        held = HeldThread(monkeypatch, READ_ROW, read_row)
        reading = bench.ref.begin_call(Get(key_of(1)))
        await held.reached.wait()
        await bench.put(1)
        held.go_on()
        with pytest.raises(RowUnavailable):
            await reading.wait()
        assert bench.cache.told(RowLost) == []
        assert await bench.ref.call(Sweep()) == 0
        assert await served(bench, 1)
        assert used(bench) == bytes_in(tmp_path)


@pytest.mark.parametrize("make_other", [link, pipe], ids=lambda make: make.__name__)
async def test_a_row_that_cannot_be_read_for_good_is_lost_and_can_be_put_again(
    tmp_path: Path, make_other: Callable[[Path], None]
) -> None:
    """Else every look-up for it would find it again."""
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.put(1)
        make_other(path_of(tmp_path, 1))
        with pytest.raises(RowUnavailable, match="cannot be read"):
            await bench.ref.call(Get(key_of(1)))
        assert bench.cache.told(RowLost) == [RowLost("d", key_of(1), "unreadable")]
        await bench.put(1)
        assert await served(bench, 1)
        await works(bench, tmp_path)


async def test_an_error_of_the_device_loses_the_row_and_not_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted once, no sweep takes it, and it is found at the next opening."""
    reading = os.preadv

    def fail(*args: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.put(1)
        monkeypatch.setattr(os, "preadv", fail)
        with pytest.raises(RowUnavailable, match="EIO"):
            await bench.ref.call(Get(key_of(1)))
        monkeypatch.setattr(os, "preadv", reading)
        assert bench.cache.told(RowLost) == [RowLost("d", key_of(1), "unreadable")]
        assert bench.cache.told(TierHealth) == []
        assert await bench.ref.call(Sweep()) == 0
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        assert len(await bench.cache.opened()) == 1
        assert await served(bench, 1)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR], ids=errno.errorcode.get)
async def test_a_row_that_cannot_be_read_for_a_moment_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The shortage is not of this row, which is as good as before."""

    def fail(*args: Any) -> None:
        raise OSError(number, os.strerror(number))

    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.put(1)
        with monkeypatch.context() as patch:
            patch.setattr(READ_ROW, fail)
            with pytest.raises(TierFailed, match=errno.errorcode[number]):
                await bench.ref.call(Get(key_of(1)))
        assert bench.cache.told(RowLost) == []
        assert await served(bench, 1)


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate"), MemoryError()])
async def test_a_row_that_there_is_no_memory_for_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: MemoryError
) -> None:
    """An address space that is used up is no fault of the file: the reader is told, and finds the row later."""

    def fail(*_: Any) -> None:
        raise error

    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.put(1)
        with monkeypatch.context() as system:
            system.setattr(BufferPool, "take", lambda *_: None)
            system.setattr("numpy.empty", fail)
            with pytest.raises(TierFailed, match="no memory"):
                await bench.ref.call(Get(key_of(1)))
        assert bench.cache.told(RowLost) == []
        assert await served(bench, 1)


@pytest.mark.parametrize("when", ["read", "opened"])
async def test_a_header_is_believed_no_further_than_the_device_has_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A hole of 1 TiB is a torn row: no memory is asked for it, whether it is read or found by an opening."""
    asked: list[int] = []
    take = BufferPool.take

    def noting(pool: BufferPool, nbytes: int) -> memoryview | None:
        asked.append(nbytes)
        return take(pool, nbytes)

    monkeypatch.setattr(BufferPool, "take", noting)
    async with tier_running(lambda: tier_at(tmp_path, quota=2 << 40)) as bench:
        await bench.put(1)
        hollow(path_of(tmp_path, 1), 1 << 40)
        if when == "read":
            asked.clear()
            assert not await served(bench, 1)
            assert bench.cache.told(RowLost) == [RowLost("d", key_of(1), "torn")]
            assert asked == []
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        assert await bench.cache.opened() == []
        await works(bench, tmp_path)


async def test_a_file_system_that_counts_no_blocks_has_whole_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZFS counts them seconds after they were written, some in user space never: what is no hole is data."""
    fstat = os.fstat

    def without_blocks(fd: int) -> os.stat_result:
        facts = list(fstat(fd).__reduce__()[1])
        facts[1]["st_blocks"] = 0
        return os.stat_result(*facts)

    monkeypatch.setattr("erllama_py.tiers.scan.HOLLOW_FROM", 1)
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.put(1)
        monkeypatch.setattr(os, "fstat", without_blocks)
        assert await served(bench, 1)
        hollow(path_of(tmp_path, 1), 900_000)
        assert not await served(bench, 1)
        assert bench.cache.told(RowLost) == [RowLost("d", key_of(1), "torn")]


async def test_behind_a_read_that_hangs_no_other_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails at once instead: each request would wait for the device anew. When it answers, rows are read again."""
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.put(1)
        held = HeldThread(monkeypatch, READ_ROW, read_row)
        reading = bench.ref.begin_call(Get(key_of(1)))
        await held.reached.wait()
        reads = bench.tier._reads
        reads.update({read: since - 11.0 for read, since in reads.items()})  # so long ago
        with pytest.raises(TierStuck) as stuck:
            await bench.ref.call(Get(key_of(1)))
        assert stuck.value.tier == "d"
        held.go_on()
        await reading.wait()
        assert await served(bench, 1)
