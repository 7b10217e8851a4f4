"""A tier of files: opening, reading, removing, setting aside, remembering hits; access rights, and a tier that cannot
be written."""

from __future__ import annotations

import os
import stat
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers.clock import ManualClock
from helpers.fake_cache import Bench, bytes_in, key_of, meta_of, payload_of, put_of, tier_running

from erllama_py.buffers import BufferPool
from erllama_py.errors import RowUnavailable, TierFailed, TierFull
from erllama_py.options.tiers import DiskTier, RamFileTier
from erllama_py.tiers import row_file
from erllama_py.tiers.directory import USAGE_INTERVAL, DirectoryTier
from erllama_py.tiers.ledger import MOST_ASIDE
from erllama_py.tiers.messages import (
    BadFiles,
    Delete,
    Get,
    Introduce,
    RowBytes,
    RowLost,
    RowStored,
    Sweep,
    TierRows,
    TierUp,
    Touch,
)

pytestmark = pytest.mark.anyio

QUOTA = 8 << 20


def tier_at(root: Path, quota: int = QUOTA, **options: Any) -> DirectoryTier:
    """A tier in `root`, not started."""
    return DirectoryTier("d", DiskTier(str(root), quota), BufferPool(64 << 20), **options)


def row_path(root: Path, number: int) -> Path:
    """The file of row `number`."""
    return root / "rows" / row_file.file_name(key_of(number))


async def filled(root: Path, count: int) -> None:
    """Put rows 0 … count - 1 into a tier, and close it."""
    async with tier_running(lambda: tier_at(root)) as bench:
        for number in range(count):
            await bench.put(number)


async def check_whole(bench: Bench, number: int) -> None:
    """Row `number` is served as it was put."""
    row: RowBytes = await bench.ref.call(Get(key_of(number)))
    assert row.meta == meta_of(number, row.meta.payload_bytes)
    assert row.payload == payload_of(row.meta.key, row.meta.payload_bytes)
    assert row.logits == payload_of(row.meta.key[::-1], row.meta.logits_bytes)


async def test_a_row_comes_back_as_it_was_put(tmp_path: Path) -> None:
    """And the cache gets the report before the caller its answer."""
    async with tier_running(lambda: tier_at(tmp_path / "kv")) as bench:
        row = await bench.put(1)
        assert bench.cache.told(RowStored) == [RowStored("d", 1, row)]
        assert row.nbytes == bytes_in(tmp_path / "kv" / "rows")
        await check_whole(bench, 1)


async def test_the_kind_is_that_of_the_spec(tmp_path: Path) -> None:
    """The same code serves both."""
    spec = RamFileTier(str(tmp_path / "kv"), QUOTA)
    async with tier_running(lambda: DirectoryTier("d", spec, BufferPool(1 << 20))) as bench:
        await bench.cache.opened()
        assert bench.cache.reports == [TierUp("d", "ram_file", QUOTA), TierRows("d", (), 0, 0)]


async def test_memory_is_lent_by_the_pool_and_fresh_without_it(tmp_path: Path) -> None:
    """A pool that has nothing to lend does not keep a row from being read."""

    class ColdPool(BufferPool):
        """The opening takes nothing from it for a moment."""

        def warm(self, count: int, nbytes: int) -> None: ...

    await filled(tmp_path / "kv", 1)
    spec = DiskTier(str(tmp_path / "kv"), QUOTA)
    for budget, leased in ((1 << 20, 1 << 20), (0, 0)):
        pool = ColdPool(budget)
        async with tier_running(partial(DirectoryTier, "d", spec, pool)) as at:
            row = await at.ref.call(Get(key_of(0)))
            assert pool.leased == leased
            assert row.payload.readonly
            del row


async def test_a_restart_brings_the_rows_back(tmp_path: Path) -> None:
    """First that it is up, then the rows in batches, with progress."""
    await filled(tmp_path, 3)
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        rows = await bench.cache.opened()
        assert {row.meta.key for row in rows} == {key_of(number) for number in range(3)}
        assert [type(report) for report in bench.cache.reports] == [TierUp, TierRows]
        assert bench.cache.told(TierRows)[0].done == bench.cache.told(TierRows)[0].total == 3
        await check_whole(bench, 2)


async def test_rows_are_reported_in_batches_with_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches stand for many rows."""
    await filled(tmp_path, 5)
    monkeypatch.setattr("erllama_py.tiers.opening.BATCH", 2)
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        rows = await bench.cache.opened()
        assert len(rows) == 5
        done = [report.done for report in bench.cache.told(TierRows)]
        assert len(done) == 3
        assert done == sorted(done)


async def test_a_new_cache_gets_all_reports_again(tmp_path: Path) -> None:
    """`Introduce` gives the rows that are there, with their hits."""
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.cache.opened()
        await bench.put(1)
        await bench.put(2)
        await bench.ref.call(Delete((key_of(1),)))
        bench.ref.cast(Touch(key_of(2), 7, 123.0))
        bench.cache.reports.clear()
        bench.ref.cast(Introduce())
        (row,) = await bench.cache.opened()
        assert (row.meta.key, row.hits, row.used_at) == (key_of(2), 7, 123.0)
        assert isinstance(bench.cache.reports[0], TierUp)


async def test_hits_survive(tmp_path: Path) -> None:
    """Written after a while, and at the end; read again at the next opening."""
    await filled(tmp_path, 2)
    clock = ManualClock()
    async with tier_running(lambda: tier_at(tmp_path, clock=clock)) as bench:
        await bench.cache.opened()
        before = row_path(tmp_path, 0).read_bytes()
        bench.ref.cast(Touch(key_of(0), 3, 5.0))
        bench.ref.cast(Touch(key_of(0), 4, 6.0))
        await clock.sleeping(USAGE_INTERVAL)
        assert row_path(tmp_path, 0).read_bytes() == before
        clock.advance(USAGE_INTERVAL)
        await bench.ref.call(Sweep())  # comes after the write, on the same thread
        bench.ref.cast(Touch(key_of(1), 9, 7.0))
        await bench.ref.call(Sweep())
        await check_whole(bench, 0)
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        usage = {row.meta.key: (row.hits, row.used_at) for row in await bench.cache.opened()}
        assert usage == {key_of(0): (4, 6.0), key_of(1): (9, 7.0)}


async def test_deleted_rows_are_gone(tmp_path: Path) -> None:
    """The bytes freed are answered; what is not there is no error."""
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        row = await bench.put(1)
        assert await bench.ref.call(Delete((key_of(1), key_of(2)))) == row.nbytes
        assert not row_path(tmp_path, 1).exists()
        with pytest.raises(RowUnavailable):
            await bench.ref.call(Get(key_of(1)))
        assert bench.cache.told(RowLost) == [RowLost("d", key_of(1), "gone")]


async def test_a_file_that_vanished_is_said_to_be_gone(tmp_path: Path) -> None:
    """And its bytes are free."""
    async with tier_running(lambda: tier_at(tmp_path, 1 << 20)) as bench:
        await bench.put(1, 800_000)
        row_path(tmp_path, 1).unlink()
        with pytest.raises(TierFull):
            await bench.put(2, 800_000)
        with pytest.raises(RowUnavailable):
            await bench.ref.call(Get(key_of(1)))
        await bench.put(2, 800_000)


def damage(root: Path, kind: str) -> None:
    """Make row 0 a bad file of this kind; row 1 is another one."""
    path = row_path(root, 0)
    data = bytearray(path.read_bytes())
    if kind == "torn":
        path.write_bytes(data[:-5000])
    elif kind == "flipped":
        data[row_file.layout(meta_of(0)).payload_offset + 77] ^= 4
        path.write_bytes(data)
    elif kind == "foreign":
        path.write_bytes(b"something else altogether" * 400)
    elif kind == "version":
        data[8:12] = (row_file.TURN_VERSION + 1).to_bytes(4, "little")
        path.write_bytes(data)
    elif kind == "renamed":
        path.write_bytes(row_path(root, 1).read_bytes())


@pytest.mark.parametrize("kind", ["torn", "flipped", "foreign", "renamed", "version"])
async def test_a_bad_row_is_never_served(tmp_path: Path, kind: str) -> None:
    """Recognised, set aside, and reported; the others are served."""
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.put(0)
        await bench.put(1)
        damage(tmp_path, kind)
        with pytest.raises(RowUnavailable) as caught:
            await bench.ref.call(Get(key_of(0)))
        assert caught.value.key == key_of(0)
        assert bench.cache.told(RowLost) == [RowLost("d", key_of(0), kind)]
        (aside,) = (tmp_path / "aside").iterdir()
        assert f"-{kind}-" in aside.name
        assert not row_path(tmp_path, 0).exists()
        await check_whole(bench, 1)


@pytest.mark.parametrize("kind", ["torn", "foreign", "renamed", "version"])
async def test_bad_files_are_found_while_opening(tmp_path: Path, kind: str) -> None:
    """Headers tell, without the payload."""
    await filled(tmp_path, 2)
    damage(tmp_path, kind)
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.cache.until(lambda: bool(bench.cache.told(BadFiles)))
        assert bench.cache.told(BadFiles) == [BadFiles("d", {kind: 1})]
        assert [row.meta.key for row in await bench.cache.opened()] == [key_of(1)]
        assert len(list((tmp_path / "aside").iterdir())) == 1


async def test_opening_bears_whatever_lies_there(tmp_path: Path) -> None:
    """Folders, links, pipes, odd names: all are left where they are. Temp files of the dead go."""
    await filled(tmp_path, 1)
    rows = tmp_path / "rows"
    (rows / "folder").mkdir()
    (rows / "link").symlink_to(tmp_path / "nowhere")
    os.mkfifo(rows / "pipe")
    (rows / "empty").touch()
    (rows / ("long" * 60)).write_bytes(b"x" * 5000)
    (rows / os.fsdecode(b"\xff\xfe odd")).write_bytes(b"x")
    (rows / "123-4.tmp").write_bytes(b"x" * 9000)
    (tmp_path / "notes.txt").write_text("not ours")
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        assert len(await bench.cache.opened()) == 1
        await bench.cache.until(lambda: bool(bench.cache.told(BadFiles)))
        (bad,) = bench.cache.told(BadFiles)
        assert bad.counts == {"foreign": 3}
        assert not (rows / "123-4.tmp").exists()
        await check_whole(bench, 0)
        assert await bench.ref.call(Sweep()) == 0
        assert (len(list(rows.iterdir())), list((tmp_path / "aside").iterdir())) == (7, [])
        assert (tmp_path / "notes.txt").exists()
        await check_whole(bench, 0)


async def test_what_is_aside_is_bounded_and_the_oldest_go_first(tmp_path: Path) -> None:
    """More bad files than are kept."""
    await filled(tmp_path, 1)
    for number in range(MOST_ASIDE + 10):
        row_path(tmp_path, 1000 + number).write_bytes(b"x")
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.cache.until(lambda: bool(bench.cache.told(BadFiles)))
        assert len(list((tmp_path / "aside").iterdir())) == MOST_ASIDE


async def test_a_sweep_waits_for_rows_that_are_pending(tmp_path: Path) -> None:
    """A temp file that is being written is no stray; any other is removed."""
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.cache.opened()
        await bench.put(0)
        bench.cache.gate.clear()
        putting = bench.ref.begin_call(put_of(meta_of(1)))
        await bench.cache.asked.wait()
        (tmp_path / "rows" / "stray").write_bytes(b"x")
        sweeping = bench.ref.begin_call(Sweep())
        await bench.ref.call(Get(key_of(0)))
        assert not sweeping.settled
        bench.cache.gate.set()
        await putting.wait()
        assert await sweeping.wait() == 0
        await check_whole(bench, 0)
        await check_whole(bench, 1)


async def test_only_the_owner_can_look(tmp_path: Path) -> None:
    """0700 and 0600, also where the umask takes nothing away, and for the directories above that are made."""
    old = os.umask(0)
    try:
        root = tmp_path / "above" / "kv"
        async with tier_running(lambda: tier_at(root)) as bench:
            await bench.put(1)
            bench.cache.gate.clear()
            bench.cache.asked.clear()
            putting = bench.ref.begin_call(put_of(meta_of(2)))
            await bench.cache.asked.wait()
            modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "above").rglob("*")}
            bench.cache.gate.set()
            await putting.wait()
    finally:
        os.umask(old)
    assert len(modes) == 7
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if not path.is_dir()} == {0o600}
    assert stat.S_IMODE((tmp_path / "above").stat().st_mode) == 0o700


async def test_a_umask_that_takes_bits_from_the_owner_does_not_make_rows_unreadable(tmp_path: Path) -> None:
    """They are to be read after a restart, by the same user."""
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        old = os.umask(0o477)
        try:
            await bench.put(1)
        finally:
            os.umask(old)
    assert stat.S_IMODE(row_path(tmp_path, 1).stat().st_mode) == 0o600


async def test_an_empty_open_directory_is_closed_to_others(tmp_path: Path) -> None:
    """It is ours, and there is nothing in it that others may want."""
    root = tmp_path / "kv"
    root.mkdir()
    root.chmod(0o755)
    async with tier_running(lambda: tier_at(root)):
        assert stat.S_IMODE(root.stat().st_mode) == 0o700


@pytest.mark.parametrize("entry", ["someone's file", "rows"])
async def test_a_directory_with_something_else_in_it_is_refused(tmp_path: Path, entry: str) -> None:
    """A mistaken path must not close a home to others, nor take its files for bad rows."""
    root = tmp_path / "kv"
    root.mkdir()
    (root / entry).mkdir()
    root.chmod(0o700 if entry == "rows" else 0o755)
    with pytest.raises(TierFailed):
        async with tier_running(lambda: tier_at(root)):
            pass
    assert os.listdir(root) == [entry]


@pytest.mark.parametrize("root", ["file", "file/below", "gone/pipe"])
async def test_what_cannot_be_a_directory_is_refused(tmp_path: Path, root: str) -> None:
    """With the path, and the operating system's error as the cause."""
    (tmp_path / "file").touch()
    (tmp_path / "gone").mkdir()
    os.mkfifo(tmp_path / "gone" / "pipe")
    with pytest.raises(TierFailed, match=str(tmp_path)) as caught:
        async with tier_running(lambda: tier_at(tmp_path / root)):
            pass
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("denied", ["mkdir", "open", "fsync"])
async def test_a_directory_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, denied: str
) -> None:
    """Whichever call says so."""

    def deny(*args: Any, **options: Any) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(f"erllama_py.tiers.lock.os.{denied}", deny)
        with pytest.raises(TierFailed, match="EACCES"):
            async with tier_running(lambda: tier_at(tmp_path / "kv")):
                pass
    async with tier_running(lambda: tier_at(tmp_path / "kv")):
        pass


async def test_a_quota_that_shrank_takes_nothing_more(tmp_path: Path) -> None:
    """What is there is counted from the first moment."""
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.put(0, 900_000)
        await bench.put(1, 900_000)
    async with tier_running(lambda: tier_at(tmp_path, 1 << 20)) as bench:
        with pytest.raises(TierFull):
            await bench.put(2, 1000)
        await bench.ref.call(Delete((key_of(0),)))
        await bench.put(2, 1000)
        assert bytes_in(tmp_path) <= 1 << 20
