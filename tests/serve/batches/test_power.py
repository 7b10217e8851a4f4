"""What a loss of power leaves of a batch: what was synchronised, and each line is answered once all the same."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest
from helpers.batch_runs import GOOD, Folder
from helpers.batches import jsonl, line, times
from helpers.runtime import until

from erllama_py.serve.batches import disk
from erllama_py.serve.batches.asking import Answer
from erllama_py.serve.batches.disk import Disk, Growing, NotSynced

pytestmark = pytest.mark.anyio
LINES = jsonl(line(number) for number in range(10))
IDS = {f"line-{number}": 1 for number in range(10)}


class Platter:
    """What is on a disk: of each file what it was when it was synchronised last. Each of `failing` calls takes nothing,
    and what it was to take is lost from memory, too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: dict[Path, bytes] = {}
        self.failing = 0
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self._synced)

    def _synced(self, file: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        if path.is_dir():
            return
        if self.failing:
            self.failing -= 1
            os.truncate(path, len(self.files.get(path, b"")))
            raise OSError(errno.ENOSPC, "No space left on device")
        self.files[path] = path.read_bytes()

    def lose_power(self, folder: Path) -> None:
        """All else is gone."""
        for path in folder.iterdir():
            if path in self.files:
                path.write_bytes(self.files[path])
            elif path.name != "in":
                path.unlink()


@pytest.fixture
def platter(monkeypatch: pytest.MonkeyPatch) -> Platter:
    """The disk."""
    return Platter(monkeypatch)


async def test_the_last_answer_is_synchronised_though_none_follows(
    tmp_path: Path, platter: Platter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch may wait for hours for its next one."""
    monkeypatch.setattr(disk, "SYNC_SECONDS", 0.0)
    threads = Disk()
    growing = await Growing.open(threads, tmp_path / "out", 0)
    await growing.append(b"one\n")
    await until(lambda: platter.files.get(tmp_path / "out") == b"one\n")
    await growing.append(b"two\n")
    await until(lambda: platter.files[tmp_path / "out"] == b"one\ntwo\n")
    await growing.close()
    threads.close()


async def test_what_is_closed_is_synchronised(tmp_path: Path, platter: Platter) -> None:
    """And what an earlier process has left in memory, when it is opened."""
    threads, path = Disk(), tmp_path / "out"
    path.write_bytes(b"one\ntorn")
    growing = await Growing.open(threads, path, 4)
    assert platter.files[path] == b"one\n"
    await growing.append(b"two\n")
    await growing.close()
    assert platter.files[path] == b"one\ntwo\n"
    threads.close()


async def test_what_a_disk_did_not_take_is_told_with_the_next_line(
    tmp_path: Path, platter: Platter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is not taken."""
    monkeypatch.setattr(disk, "SYNC_SECONDS", 0.0)
    threads = Disk()
    growing = await Growing.open(threads, tmp_path / "out", 0)
    platter.failing = 1
    await growing.append(b"one\n")
    await until(lambda: growing._syncing is not None and growing._syncing.done())
    with pytest.raises(NotSynced):
        await growing.append(b"two\n")
    await growing.close()
    threads.close()


@pytest.mark.parametrize("answers", [0, 1, 5, 10])
@pytest.mark.parametrize("seconds", [0.0, 100.0])
async def test_a_loss_of_power_doubles_and_loses_no_answer(
    tmp_path: Path, platter: Platter, monkeypatch: pytest.MonkeyPatch, answers: int, seconds: float
) -> None:
    """Whether what was answered is on the disk or not."""
    monkeypatch.setattr(disk, "SYNC_SECONDS", seconds)

    async def endpoint(body: bytes, gone: asyncio.Event) -> Answer:
        if at.asked.total() <= answers:
            return GOOD
        reached.set()
        await gone.wait()
        return Answer(499, b"")

    at, reached = Folder(tmp_path, LINES, endpoint=endpoint, width=1), asyncio.Event()
    work = asyncio.create_task(at.run().go())
    waiting = asyncio.create_task(reached.wait())
    await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
    left = dict(platter.files)
    for task in (work, waiting):
        task.cancel()
    await asyncio.gather(work, waiting, return_exceptions=True)
    platter.files = left
    platter.lose_power(tmp_path)
    answers = 1000
    assert (await at.over()).status == "completed"
    assert times(at.answers()) == IDS


@pytest.mark.parametrize("failing", [1, 2, 3])
async def test_answers_that_a_disk_has_lost_are_asked_again(
    tmp_path: Path, platter: Platter, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """It says that it is full only when it is to synchronise, as over a network, and forgets what it had taken."""
    monkeypatch.setattr(disk, "SYNC_SECONDS", 0.0)

    async def endpoint(body: bytes, gone: asyncio.Event) -> Answer:
        if at.asked.total() == 5:
            platter.failing = failing
        return GOOD

    at, over = Folder(tmp_path, LINES, endpoint=endpoint, width=1), False
    while not over:
        run = at.run()
        try:
            over = (await run.go()).over
        except OSError:
            assert run.state.status in ("in_progress", "finalizing")
    assert platter.failing == 0
    assert times(at.answers()) == IDS
    assert platter.files[at.job.output] == at.job.output.read_bytes()
