"""A directory that is looked at while rows are put, deleted and swept, while it is replaced, and where that fails."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.clock import ManualClock
from helpers.directory_tier import QUOTA, path_of, served, tier_at, used, works
from helpers.fake_cache import Bench, FakeCache, bytes_in, key_of, meta_of, put_of, tier_running
from helpers.held_thread import HeldThread
from helpers.tampered_files import Stage, TamperedFiles

from erllama_py.buffers import BufferPool
from erllama_py.errors import RowUnavailable, TierFailed
from erllama_py.options.tiers import DiskTier
from erllama_py.tiers.directory import LOOK_SECONDS, DirectoryTier
from erllama_py.tiers.lock import Place
from erllama_py.tiers.messages import BadFiles, Delete, Get, Introduce, Sweep, TierRows
from erllama_py.tiers.opening import compare
from erllama_py.tiers.scan import Finding, look_at, take_census
from erllama_py.tiers.store import Store

pytestmark = pytest.mark.anyio

COUNT = 5
LOOK_AT = "erllama_py.tiers.opening.look_at"


async def filled(root: Path, count: int = COUNT) -> None:
    """Put rows 0 … count - 1 into a tier, and close it."""
    async with tier_running(lambda: tier_at(root)) as bench:
        for number in range(count):
            await bench.put(number)


def known(bench: Bench) -> set[bytes]:
    """The keys of the rows that were found."""
    return {row.meta.key for batch in bench.cache.told(TierRows) for row in batch.rows}


def files(root: Path) -> int:
    """How many there are in `rows`."""
    return len(os.listdir(root / "rows"))


async def introduced(bench: Bench) -> TierRows:
    """The last word of the tier about its rows, after it was asked again."""
    bench.cache.reports.clear()
    bench.ref.cast(Introduce())
    await bench.cache.until(lambda: bool(bench.cache.told(TierRows)))
    return bench.cache.told(TierRows)[-1]


# --- beside other work ---------------------------------------------------------------------------------------


async def test_a_row_that_is_deleted_while_its_header_is_read_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read of it is old."""
    await filled(tmp_path)
    held = HeldThread(monkeypatch, LOOK_AT, look_at)
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await held.reached.wait()
        await bench.ref.call(Delete((key_of(0),)))
        held.go_on()
        await bench.cache.opened()
        assert known(bench) == {key_of(number) for number in range(1, COUNT)}


@pytest.mark.parametrize("was", ["sound", "bad"])
async def test_a_row_that_is_put_while_its_header_is_read_is_the_one_that_was_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was: str
) -> None:
    """The hits of the old file are not reported for it, and it is not set aside because the old one was bad."""
    await filled(tmp_path, 1)
    if was == "bad":
        path_of(tmp_path, 0).write_bytes(b"bad")
    held = HeldThread(monkeypatch, LOOK_AT, look_at)
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await held.reached.wait()
        await bench.put(0)
        held.go_on()
        await bench.cache.opened()
        assert known(bench) == set()
        assert bench.cache.told(BadFiles) == []
        assert await served(bench, 0)
        assert os.listdir(tmp_path / "aside") == []


async def test_a_sweep_while_opening_spares_what_was_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not known yet whether these are rows."""
    await filled(tmp_path)
    held = HeldThread(monkeypatch, LOOK_AT, look_at)
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await held.reached.wait()
        assert await bench.ref.call(Sweep()) == 0
        held.go_on()
        await bench.cache.opened()
        assert len(known(bench)) == COUNT
        assert await served(bench, 0)


# --- what cannot be read -------------------------------------------------------------------------------------


class Unreadable:
    """In place of `os.open` for the files of rows: fails with `number` while that is not None."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.number: int | None = number
        self._open = os.open
        monkeypatch.setattr("erllama_py.tiers.scan.os.open", self)

    def __call__(self, path: Any, *args: Any, **options: Any) -> int:
        if self.number is not None and str(path).endswith(".row"):
            raise OSError(self.number, os.strerror(self.number))
        return self._open(path, *args, **options)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EIO, errno.EACCES], ids=errno.errorcode.get)
async def test_rows_that_could_not_be_read_for_a_moment_are_found_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A sweep does not take them for strays; it has them looked at again, until they can be read."""
    await filled(tmp_path)
    unreadable = Unreadable(monkeypatch, number)
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.cache.until(lambda: bool(bench.cache.told(BadFiles)))
        assert bench.cache.told(BadFiles) == [BadFiles("d", {"unreadable": COUNT})]
        assert await introduced(bench) == TierRows("d", (), 0, 0)
        assert await bench.ref.call(Sweep()) == 0
        await bench.cache.until(lambda: len(bench.cache.told(TierRows)) > 1)
        unreadable.number = None
        assert await bench.ref.call(Sweep()) == 0
        await bench.cache.until(lambda: len(known(bench)) == COUNT)
        told = bench.cache.told(TierRows)[-1]
        assert told.done == told.total == COUNT
        assert await served(bench, 0)


@pytest.mark.parametrize("why", ["recovery", "time"])
async def test_what_could_not_be_read_is_looked_at_when_the_device_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """With the first row that can be put again, or now and then; it is counted once."""
    clock, broken = ManualClock(), [False]

    def at_stage(stage: Stage) -> None:
        if broken[0]:
            raise OSError(errno.EACCES, "injected")

    def tier() -> DirectoryTier:
        spec = DiskTier(str(tmp_path), QUOTA)
        return DirectoryTier("d", spec, BufferPool(0), files=TamperedFiles(at_stage), clock=clock)

    await filled(tmp_path)
    unreadable = Unreadable(monkeypatch, errno.EACCES)
    unreadable.number = None
    async with tier_running(tier) as bench:
        await bench.cache.opened()
        unreadable.number = errno.EACCES
        assert not await served(bench, 0)
        assert not await served(bench, 1)
        if why == "recovery":
            broken[0] = True
            with pytest.raises(TierFailed):
                await bench.put(90)
            broken[0] = False
        else:
            await bench.put(90)
            clock.advance(LOOK_SECONDS)
        unreadable.number = None
        await bench.put(91)
        await bench.cache.until(lambda: len(known(bench)) >= COUNT)
        assert [await served(bench, number) for number in (0, 1, 91)] == [True] * 3
        assert bench.cache.told(BadFiles) == []
        assert used(bench) == bytes_in(tmp_path)


async def test_a_file_that_cannot_be_read_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the device is no verdict on the row; a sweep leaves it, and a row that is put takes its place."""
    await filled(tmp_path)
    unreadable = Unreadable(monkeypatch, errno.EIO)
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.cache.until(lambda: bool(bench.cache.told(BadFiles)))
        for _ in range(2):
            assert await bench.ref.call(Sweep()) == 0
        assert bench.cache.told(BadFiles) == [BadFiles("d", {"unreadable": COUNT})]
        assert files(tmp_path) == COUNT
        await bench.put(0)
        await bench.ref.call(Delete((key_of(1),)))
        assert files(tmp_path) == COUNT - 1
        assert used(bench) == bytes_in(tmp_path)
    unreadable.number = None
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        assert len(await bench.cache.opened()) == COUNT - 1


async def test_an_opening_that_failed_loses_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No look-up waits for the rest; a sweep keeps it and has it scanned."""
    await filled(tmp_path)
    failed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def fail(place: Place, names: Sequence[str]) -> list[Finding]:
        raise MemoryError

    def make() -> DirectoryTier:
        loop.set_exception_handler(lambda _, context: failed.set())
        return tier_at(tmp_path)

    monkeypatch.setattr(LOOK_AT, fail)
    async with tier_running(make) as bench:
        await failed.wait()
        assert bench.cache.told(TierRows)[-1] == TierRows("d", (), 0, 0)
        assert await introduced(bench) == TierRows("d", (), 0, 0)
        monkeypatch.setattr(LOOK_AT, look_at)
        assert await bench.ref.call(Sweep()) == 0
        await bench.cache.until(lambda: len(known(bench)) == COUNT)


# --- a directory that is replaced ----------------------------------------------------------------------------


def take_away(root: Path) -> Path:
    """The directory is not there any more, and its descriptors lead nowhere; a copy that can come back."""
    copy = root.with_name("copy")
    shutil.copytree(root, copy)
    shutil.rmtree(root)
    return copy


@pytest.mark.parametrize(
    ("path", "original"),
    [("take_census", take_census), ("Store.reopen_if_lost", Store.reopen_if_lost)],
    ids=["it is being opened", "it is open and not reported yet"],
)
async def test_a_sweep_that_was_asked_for_before_a_directory_came_back_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, original: Callable[..., Any]
) -> None:
    """What was owned then are not the rows that are there now."""
    root = tmp_path / "kv"
    async with tier_running(lambda: tier_at(root)) as bench:
        for number in range(COUNT):
            await bench.put(number)
        copy = take_away(root)
        for number in range(COUNT):
            with pytest.raises(RowUnavailable):
                await bench.ref.call(Get(key_of(number)))
        copy.rename(root)
        held = HeldThread(monkeypatch, f"erllama_py.tiers.store.{path}", original)
        putting = bench.ref.begin_call(put_of(meta_of(9)))
        await held.reached.wait()
        sweeping = bench.ref.begin_call(Sweep())
        bench.ref.cast(Introduce())
        await bench.cache.until(lambda: isinstance(bench.cache.reports[-1], TierRows))  # the sweep is under way
        held.go_on()
        assert await sweeping.wait() == 0
        await putting.wait()
        await bench.cache.until(lambda: len(known(bench)) == COUNT)
        assert files(root) == COUNT + 1
        assert await served(bench, 0)


async def test_many_rows_that_are_gone_are_told_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop turns in between, and the names are compared on a thread."""
    monkeypatch.setattr("erllama_py.tiers.directory.GONE_AT_ONCE", 2)
    compared = HeldThread(monkeypatch, "erllama_py.tiers.directory.compare", compare)
    turns, told = 0, list[tuple[int, int]]()

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with tier_running(lambda: tier_at(tmp_path / "kv")) as bench:
        for number in range(COUNT):
            await bench.put(number)
        monkeypatch.setattr(bench.tier, "lost", lambda keys, reason: told.append((turns, len(keys))))
        shutil.rmtree(tmp_path / "kv")
        turning = asyncio.ensure_future(count_turns())
        putting = bench.ref.begin_call(put_of(meta_of(9)))
        await compared.reached.wait()
        compared.go_on()
        await putting.wait()
        turning.cancel()
    assert [count for _, count in told] == [2, 2, 1]
    assert len({turn for turn, _ in told}) == len(told)


async def test_a_directory_that_comes_back_during_its_scan_is_scanned_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found of the old one, late, says nothing about the names of the new one."""
    root = tmp_path / "kv"
    await filled(root)
    first = HeldThread(monkeypatch, LOOK_AT, lambda place, names: [Finding(name) for name in names])
    cache = FakeCache()
    async with tier_running(lambda: tier_at(root), cache) as bench:
        await first.reached.wait()
        take_away(root).rename(root)
        second = HeldThread(monkeypatch, LOOK_AT, look_at)
        await bench.put(9)
        await second.reached.wait()
        told = len(cache.told(TierRows))
        first.go_on()
        await bench.ref.call(Sweep())
        assert len(cache.told(TierRows)) == told
        second.go_on()
        await cache.until(lambda: len(known(bench)) == COUNT)
        assert cache.told(TierRows)[-1].done == COUNT
        assert await bench.ref.call(Sweep()) == 0
        assert files(root) == COUNT + 1
        await works(bench, root, 8)
