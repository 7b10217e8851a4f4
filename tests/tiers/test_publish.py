"""The publish protocol, failed, cancelled and cut off at every stage: a row is whole or not there; nothing leaks."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.checkpoints import turns
from helpers.directory_tier import QUOTA, path_of, served, tier_at, used, works
from helpers.fake_cache import (
    FakeCache,
    bytes_in,
    key_of,
    meta_of,
    put_of,
    temp_files,
    tier_running,
)
from helpers.names import wait_free
from helpers.tampered_files import Died, Dying, Failing, Stage, TamperedFiles, Waiting

from erllama_py.actors import ActorEnded
from erllama_py.buffers import BufferPool
from erllama_py.errors import TierFailed, TierFull
from erllama_py.tiers import row_file
from erllama_py.tiers.ledger import on_disk
from erllama_py.tiers.lock import open_place
from erllama_py.tiers.messages import Delete, Put, ReservationGone, RowBytes, RowLost, RowStored, TierHealth
from erllama_py.tiers.publish import Draft, Files, prepare, publish
from erllama_py.tiers.scan import read_row
from erllama_py.tiers.store import Store

pytestmark = pytest.mark.anyio

# The stages that a row passes where nothing has its name; `REPLACE` has tests of its own.
PLAIN = [stage for stage in Stage if stage is not Stage.REPLACE]
BEFORE_THE_LINK = PLAIN[: PLAIN.index(Stage.LINK)]


@pytest.mark.parametrize("stage", PLAIN, ids=lambda stage: stage.value)
@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EROFS], ids=errno.errorcode.get
)
async def test_an_error_at_any_stage_leaves_nothing_and_heals(tmp_path: Path, stage: Stage, number: int) -> None:
    """The call fails with the cause, the cache hears of it once, and of the recovery once; no room is its own error."""
    expected = TierFull if number in (errno.ENOSPC, errno.EDQUOT) else TierFailed
    failing = Failing(stage, OSError(number, "injected"), times=2)
    async with tier_running(lambda: tier_at(tmp_path, TamperedFiles(failing))) as bench:
        before = used(bench)
        while failing.left:
            with pytest.raises(expected, match=errno.errorcode[number]) as caught:
                await bench.put(1)
            assert isinstance(caught.value.__cause__, OSError)
        (health,) = bench.cache.told(TierHealth)
        assert health.problem == f"cannot be written: injected ({errno.errorcode[number]})"
        assert not await served(bench, 1)
        await bench.put(2)
        assert [health.problem is None for health in bench.cache.told(TierHealth)] == [False, True]
        await works(bench, tmp_path)
        assert used(bench) == before + 2 * on_disk(row_file.layout(meta_of(1)).file_bytes)


@pytest.mark.parametrize("stage", PLAIN, ids=lambda stage: stage.value)
async def test_a_process_that_ends_at_any_stage_leaves_a_whole_row_or_none(tmp_path: Path, stage: Stage) -> None:
    """What it leaves is opened, and temp files are gone."""
    store = Store("d", str(tmp_path), QUOTA, TamperedFiles(Dying(stage)), BufferPool(0))
    store.open()
    message = put_of(meta_of(1))
    draft = Draft(message.row)

    def store_row() -> None:
        store.prepare(draft)
        store.publish(draft)

    with pytest.raises(Died):
        store_row()
    store.close()
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        rows = await bench.cache.opened()
        assert temp_files(tmp_path) == []
        assert [row.meta.key for row in rows] == ([] if stage in {*BEFORE_THE_LINK, Stage.LINK} else [key_of(1)])
        assert await served(bench, 1) is bool(rows)
        await works(bench, tmp_path)


@pytest.mark.parametrize("stage", BEFORE_THE_LINK, ids=lambda stage: stage.value)
async def test_a_tier_that_stops_before_the_link_leaves_nothing(tmp_path: Path, stage: Stage) -> None:
    """Of the row that it is at, and of those that are queued."""
    waiting = Waiting(stage)
    async with tier_running(lambda: tier_at(tmp_path, TamperedFiles(waiting))) as bench:
        replies = [bench.ref.begin_call(put_of(meta_of(number))) for number in (1, 2)]
        await waiting.reached.wait()
        bench.run.request_stop()
        await turns()  # it is ending, and waits for the thread
        waiting.go_on()
        for reply in replies:
            with pytest.raises(ActorEnded):
                await reply.wait()
        await asyncio.wait((bench.run.task,))
        assert not path_of(tmp_path, 2).exists()
        assert temp_files(tmp_path) == []
        assert not path_of(tmp_path, 1).exists()
        assert [stored for stored in bench.cache.told(RowStored) if stored.row.meta.key == key_of(1)] == []


@pytest.mark.parametrize("stage", [Stage.LINK, Stage.UNLINK, Stage.SYNC_DIRECTORY], ids=lambda stage: stage.value)
async def test_after_the_link_a_row_is_stored_and_reported_though_the_tier_stops(tmp_path: Path, stage: Stage) -> None:
    """From the link on there is no way back: the cache must know what is there. What is queued is not begun."""
    waiting = Waiting(stage)
    async with tier_running(lambda: tier_at(tmp_path, TamperedFiles(waiting))) as bench:
        for number in (1, 2, 3):
            bench.ref.cast(put_of(meta_of(number)))
        await waiting.reached.wait()
        bench.run.request_stop()
        await turns()  # it is ending, and waits for the thread
        waiting.go_on()
        await asyncio.wait((bench.run.task,))
        await bench.cache.until(lambda: bool(bench.cache.told(RowStored)))
        assert [path_of(tmp_path, number).exists() for number in (1, 2, 3)] == [True, False, False]
        assert temp_files(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="blocks cannot be taken here")
async def test_blocks_are_taken_before_anything_is_written(tmp_path: Path) -> None:
    """A disk that fills up shows before megabytes were written for nothing."""
    taken: list[int] = []

    def at_stage(stage: Stage) -> None:
        if stage is Stage.WRITE:
            (temp,) = (tmp_path / "rows").iterdir()
            taken.append(temp.stat().st_blocks * 512)

    async with tier_running(lambda: tier_at(tmp_path, TamperedFiles(at_stage))) as bench:
        await bench.put(1)
    assert taken[0] >= row_file.layout(meta_of(1)).file_bytes


async def test_a_row_is_on_the_device_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole; and it has its name before it is reported."""
    synced: dict[int, int] = {}

    def watch(name: str) -> None:
        original = getattr(os, name)

        def sync(fd: int) -> None:
            facts = os.fstat(fd)
            synced[facts.st_ino] = facts.st_size
            original(fd)

        monkeypatch.setattr(os, name, sync)

    def at_stage(stage: Stage) -> None:
        if stage is Stage.LINK:
            (temp,) = (tmp_path / "rows").iterdir()
            assert synced[temp.stat().st_ino] == row_file.layout(meta_of(1)).file_bytes
            synced.clear()

    async with tier_running(lambda: tier_at(tmp_path, TamperedFiles(at_stage))) as bench:
        watch("fsync")
        watch("fdatasync")
        await bench.put(1)
        assert (tmp_path / "rows").stat().st_ino in synced


@pytest.mark.parametrize("cache", ["does not want it", "is gone"])
async def test_a_reservation_that_does_not_stand_publishes_nothing(tmp_path: Path, cache: str) -> None:
    """The last question before the link."""
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        before = used(bench)
        bench.cache.stands = cache != "does not want it"
        bench.cache.gate.clear()
        reply = bench.ref.begin_call(put_of(meta_of(1)))
        await bench.cache.asked.wait()
        assert len(temp_files(tmp_path)) == 1
        if cache == "is gone":
            bench.beside.task.cancel()
        else:
            bench.cache.gate.set()
        with pytest.raises(ReservationGone):
            await reply.wait()
        assert temp_files(tmp_path) == []
        assert used(bench) == before
        assert bench.cache.told(TierHealth) == []


async def test_the_same_row_is_adopted(tmp_path: Path) -> None:
    """The file stays; it is reported like a new one, with the hits that it has."""
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.put(1)
        path = path_of(tmp_path, 1)
        inode = path.stat().st_ino
        data = bytearray(path.read_bytes())
        usage = row_file.encode_usage(5, 77.0)
        data[row_file.USAGE_OFFSET : row_file.USAGE_OFFSET + len(usage)] = usage
        path.write_bytes(data)
        row = await bench.put(1)
        assert path.stat().st_ino == inode
        assert (row.hits, row.used_at) == (5, 77.0)
        assert len(bench.cache.told(RowStored)) == 2
        await works(bench, tmp_path)


def flip(path: Path) -> None:
    """Change one bit of the payload."""
    data = bytearray(path.read_bytes())
    data[row_file.layout(meta_of(1)).payload_offset + 9] ^= 1
    path.write_bytes(data)


def other_size(path: Path) -> None:
    """A sound row of the same key, with other bytes."""
    meta = meta_of(1, payload_bytes=50_000)
    place = open_place("other", str(path.parent.parent / "elsewhere"))
    draft = Draft(put_of(meta).row)
    prepare(Files(), place.rows_fd, draft)
    publish(Files(), place.rows_fd, draft, lambda: None)
    shutil.move(Path(place.root) / "rows" / draft.name, path)
    place.close()
    shutil.rmtree(place.root)


def foreign(path: Path) -> None:
    """No row at all."""
    path.write_bytes(b"foreign")


def link(path: Path) -> None:
    """A name that leads nowhere."""
    path.unlink()
    path.symlink_to("nowhere")


OTHERS: list[Callable[[Path], None]] = [flip, other_size, foreign, link]


@pytest.mark.parametrize("make_other", OTHERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("failing", [None, Stage.REPLACE, Stage.UNLINK, Stage.SYNC_DIRECTORY])
async def test_another_file_of_that_name_is_replaced(
    tmp_path: Path, make_other: Callable[[Path], None], failing: Stage | None
) -> None:
    """Also where that fails at first; never is anything served that is not the row."""
    fail: Callable[[Stage], None] = lambda stage: None  # noqa: E731  # replaced once row 1 is there
    async with tier_running(lambda: tier_at(tmp_path, TamperedFiles(lambda stage: fail(stage)))) as bench:
        await bench.put(1)
        make_other(path_of(tmp_path, 1))
        if failing is not None:
            fail = Failing(failing, OSError(errno.EIO, "injected"))
            with pytest.raises(TierFailed):
                await bench.put(1)
            assert temp_files(tmp_path) == []
            if failing is not Stage.REPLACE:
                assert bench.cache.told(RowLost) == [RowLost("d", key_of(1), "gone")]
        await bench.put(1)
        assert await served(bench, 1)
        await works(bench, tmp_path)


async def test_the_quota_holds_at_every_moment(tmp_path: Path) -> None:
    """Looked at before every call of the operating system, temp files, what is aside and the lock counted in."""
    most = 0

    def at_stage(stage: Stage) -> None:
        nonlocal most
        most = max(most, bytes_in(tmp_path))

    async with tier_running(lambda: tier_at(tmp_path, TamperedFiles(at_stage))) as bench:
        replies = [bench.ref.begin_call(put_of(meta_of(number, 100_000))) for number in range(20)]
        outcomes = await asyncio.gather(*(reply.wait() for reply in replies), return_exceptions=True)
        full = [outcome for outcome in outcomes if isinstance(outcome, TierFull)]
        assert 0 < len(full) < 20
        path_of(tmp_path, 0).write_bytes(b"bad" * 30_000)
        assert not await served(bench, 0)
        with pytest.raises(TierFull):
            await bench.put(30, 200_000)
        await bench.ref.call(Delete((key_of(1),)))
        half = (QUOTA - used(bench)) // 2
        await bench.put(31, half)
        with pytest.raises(TierFull):
            await bench.put(31, half)  # a second one needs room for itself until it is found to be the same
        assert used(bench) == bytes_in(tmp_path)
    assert most <= QUOTA
    assert most > QUOTA * 3 // 4


async def test_bytes_that_are_not_those_of_the_row_are_refused(tmp_path: Path) -> None:
    """Nothing is written, and the tier is well."""
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        message = put_of(meta_of(1))
        with pytest.raises(TierFailed):
            await bench.ref.call(Put(1, RowBytes(message.row.meta, message.row.payload[1:], message.row.logits)))
        assert bench.cache.told(TierHealth) == []


async def test_without_a_cache_nothing_is_published(tmp_path: Path) -> None:
    """Nothing is there to confirm that the row is wanted."""
    cache = FakeCache()
    async with tier_running(lambda: tier_at(tmp_path), cache) as bench:
        beside = bench.names.whereis("cache")
        assert beside is not None
        beside.stop()
        await wait_free(bench.names, "cache")
        with pytest.raises(ReservationGone):
            await bench.put(1)
        assert temp_files(tmp_path) == []


async def test_a_reader_goes_on_while_its_row_is_deleted(tmp_path: Path) -> None:
    """An open file stays whole, whatever happens to its name."""
    store = Store("d", str(tmp_path), QUOTA, Files(), BufferPool(0))
    store.open()
    message = put_of(meta_of(1))
    draft = Draft(message.row)
    store.prepare(draft)
    store.publish(draft)
    place = store.place
    assert place is not None

    def delete_and_take(nbytes: int) -> None:
        store.delete([draft.name])

    _, payload, _ = read_row(place, draft.name, delete_and_take)
    assert payload == message.row.payload
    store.close()
