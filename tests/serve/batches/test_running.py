"""One batch from its journal to its end, and whatever comes between: without a server."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiofiles
import pytest
from helpers.batch_runs import GOOD, Folder
from helpers.batches import jsonl, line, times
from helpers.runtime import until

from erllama_py.serve.batches import outputs
from erllama_py.serve.batches.asking import Answer

pytestmark = pytest.mark.anyio
LINES = jsonl(line(number) for number in range(12))
IDS = {f"line-{number}": 1 for number in range(12)}


async def test_each_line_is_asked_and_answered_once(tmp_path: Path) -> None:
    """And the journal says that it is over: another run has nothing to do."""
    at = Folder(tmp_path, LINES)
    state = await at.over()
    assert (state.status, state.total, state.completed, state.failed) == ("completed", 12, 12, 0)
    assert times(at.answers()) == IDS
    assert set(at.asked.values()) == {1}
    assert (await at.over()).status == "completed"
    assert at.asked.total() == 12
    assert (at.counts.completed, at.counts.failed) == (12, 0)


async def test_what_is_answered_is_not_asked_again(tmp_path: Path) -> None:
    """Wherever it is stopped, as often as it is: the lines at work are asked again, those that are answered are not."""
    hold = asyncio.Event()

    async def endpoint(body: bytes, gone: asyncio.Event) -> Answer:
        if at.asked.total() % 5:
            return GOOD
        hold.set()
        await gone.wait()
        return Answer(499, b"")

    at = Folder(tmp_path, LINES, endpoint=endpoint, width=1)
    stops = 0
    while True:
        hold.clear()
        run = at.run()
        work, held = asyncio.create_task(run.go()), asyncio.create_task(hold.wait())
        await asyncio.wait({work, held}, return_when=asyncio.FIRST_COMPLETED)
        held.cancel()
        run.stop()
        if (await work).over:
            break
        stops += 1
    assert stops > 1
    assert times(at.answers()) == IDS
    assert at.asked.total() == 12 + stops


@pytest.mark.parametrize("cut", [1, 20, 100])
async def test_a_torn_line_is_cut_off_and_asked_again(tmp_path: Path, cut: int) -> None:
    """The output of a batch that was killed while it wrote."""
    at = Folder(tmp_path, LINES)
    await at.over()
    whole, journal = at.job.output.read_bytes(), at.job.journal.read_bytes()
    at.job.journal.write_bytes(b"".join(journal.splitlines(keepends=True)[:2]) + b'{"type":"fin')
    at.job.output.write_bytes(whole[:-cut])
    asked = at.asked.total()
    assert (await at.over()).status == "completed"
    assert times(at.answers()) == IDS
    assert at.asked.total() == asked + 1
    assert at.job.journal.read_bytes().count(b"\n") == 4


async def test_an_index_that_is_lost_is_made_again(tmp_path: Path) -> None:
    """Out of the input, which has the same lines still."""
    at = Folder(tmp_path, LINES)
    at.draining = True  # checked, and no line is begun
    assert (await at.over()).status == "in_progress"
    at.draining = False
    at.job.index.unlink()
    assert (await at.over()).status == "completed"
    assert times(at.answers()) == IDS


async def test_an_input_that_is_deleted_ends_its_lines_with_errors(tmp_path: Path) -> None:
    """Those that were not begun, each by its own id."""

    async def endpoint(body: bytes, gone: asyncio.Event) -> Answer:
        at.job.input.unlink(missing_ok=True)
        return GOOD

    at = Folder(tmp_path, LINES, endpoint=endpoint, width=1)
    state = await at.over()
    assert (state.status, state.completed, state.failed) == ("completed", 1, 11)
    assert times(at.answers(), at.answers(at.job.errors)) == IDS
    assert {one["error"]["code"] for one in at.answers(at.job.errors)} == {"input_file_deleted"}


async def test_an_input_that_is_gone_before_it_was_checked_is_no_batch(tmp_path: Path) -> None:
    """One problem says so."""
    at = Folder(tmp_path, LINES)
    run = at.run()
    at.job.input.unlink()
    state = await run.go()
    assert (state.status, [one.code for one in state.problems]) == ("failed", ["input_file_not_found"])


async def test_an_input_that_was_changed_ends_its_lines_with_errors(tmp_path: Path) -> None:
    """Its index would point into the middle of others."""
    at = Folder(tmp_path, LINES)
    at.draining = True
    await at.over()
    at.draining = False
    at.job.input.write_bytes(b"x" * len(LINES))
    assert (await at.over()).failed == 12
    assert {one["error"]["code"] for one in at.answers(at.job.errors)} == {"input_file_changed"}


async def test_a_cancelled_batch_keeps_its_answers(tmp_path: Path) -> None:
    """Lines at work are given up; a second time changes nothing."""
    third = asyncio.Event()

    async def endpoint(body: bytes, gone: asyncio.Event) -> Answer:
        if at.asked.total() <= 3:
            return GOOD
        third.set()
        await gone.wait()
        return Answer(499, b"")

    at = Folder(tmp_path, LINES, endpoint=endpoint, width=1)
    run = at.run()
    work = asyncio.create_task(run.go())
    await third.wait()
    await run.cancel()
    await run.cancel()
    state = await work
    assert (state.status, state.completed, state.failed) == ("cancelled", 3, 0)
    await run.cancel()  # after its end
    assert (await at.over()).status == "cancelled"


async def test_a_batch_is_cancelled_while_its_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever cancels it then is not told so for nothing: the next run ends it."""
    closing, go_on, close = asyncio.Event(), asyncio.Event(), outputs.Outputs.close

    async def slowly(self: outputs.Outputs) -> None:
        closing.set()
        await go_on.wait()
        await close(self)

    monkeypatch.setattr(outputs.Outputs, "close", slowly)
    at = Folder(tmp_path, LINES, endpoint=lambda body, gone: _given_up(gone), width=1)
    run = at.run()
    work = asyncio.create_task(run.go())
    await until(lambda: bool(at.asked))
    run.stop()
    await closing.wait()
    await run.cancel()
    go_on.set()
    assert (await work).status == "cancelling"
    assert (await at.over()).status == "cancelled"


async def _given_up(gone: asyncio.Event) -> Answer:
    await gone.wait()
    return Answer(499, b"")


async def test_a_batch_whose_time_is_over_names_its_open_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those at work, and one that is taken up again after its time."""
    loop, due = asyncio.get_running_loop(), list[Callable[[], object]]()
    call_later = loop.call_later

    def noted(seconds: float, call: Callable[..., object], *given: Any, **how: Any) -> asyncio.TimerHandle:
        if seconds == 1000.0:
            due.append(call)
        return call_later(seconds, call, *given, **how)

    async def endpoint(body: bytes, gone: asyncio.Event) -> Answer:
        if at.asked.total() <= 2:
            return GOOD
        at.now = 5000.0
        due[0]()
        await gone.wait()
        return Answer(499, b"")

    monkeypatch.setattr(loop, "call_later", noted)
    at = Folder(tmp_path, LINES, endpoint=endpoint, width=1)
    at.now = 1000.0
    state = await at.over(expires_at=2000)
    assert (state.status, state.completed, state.failed) == ("expired", 2, 10)
    assert times(at.answers(), at.answers(at.job.errors)) == IDS
    assert {one["error"]["code"] for one in at.answers(at.job.errors)} == {"batch_expired"}


async def test_a_server_that_is_full_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After as long as it says; what it refuses for good is an error with its answer."""
    waits = list[float]()

    async def paused(seconds: float, unless: asyncio.Event) -> None:
        waits.append(seconds)

    async def endpoint(body: bytes, gone: asyncio.Event) -> Answer:
        if b"question 7" in body:
            return Answer(404, b'{"error":{"code":"model_not_found"}}', "req_7", "model_not_found")
        if at.asked.total() % 2:
            return Answer(429, b"{}", "req", "queue_full", 1.0)
        return GOOD

    monkeypatch.setattr("erllama_py.serve.batches.running.paused", paused)
    at = Folder(tmp_path, LINES, endpoint=endpoint, width=1)
    state = await at.over()
    assert (state.status, state.completed, state.failed) == ("completed", 11, 1)
    assert waits
    assert min(waits) >= 1.0
    (failed,) = at.answers(at.job.errors)
    assert failed["custom_id"] == "line-7"
    assert failed["response"]["status_code"] == 404
    assert failed["response"]["body"]["error"]["code"] == "model_not_found"


async def test_a_server_that_drains_begins_no_line(tmp_path: Path) -> None:
    """The lines at work may end; the rest is for the next process."""

    async def endpoint(body: bytes, gone: asyncio.Event) -> Answer:
        at.draining = at.asked.total() == 5
        return GOOD

    at = Folder(tmp_path, LINES, endpoint=endpoint, width=1)
    state = await at.over()
    assert (state.status, len(at.answers()), at.asked.total()) == ("in_progress", 5, 5)
    at.draining = False
    await at.over()
    assert times(at.answers()) == IDS


async def test_a_stream_is_refused_in_its_line(tmp_path: Path) -> None:
    """Its endpoint is not asked: an answer is one object."""
    at = Folder(tmp_path, jsonl([line(1), line(2, stream=True)]))
    state = await at.over()
    assert (state.completed, state.failed) == (1, 1)
    (failed,) = at.answers(at.job.errors)
    assert (failed["custom_id"], failed["error"]["code"]) == ("line-2", "stream_not_supported")
    assert failed["response"] is None


class SmallDisk:
    """What `aiofiles.open` gives, where the disk has room for so many bytes only: all files together."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room, self.tries = room, 0
        real = aiofiles.open

        async def opened(*given: Any, **how: Any) -> Any:
            file = await real(*given, **how)
            write = file.write

            async def small(data: memoryview) -> int:
                self.tries += not self.room
                if not self.room:
                    raise OSError(errno.ENOSPC, "No space left on device")
                part = data[: self.room]
                self.room -= len(part)
                written: int = await write(part)
                return written

            file.write = small
            return file

        monkeypatch.setattr(aiofiles, "open", opened)


async def test_a_full_disk_holds_a_batch_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, keeps what it has, and goes on when there is room: nothing is lost, torn, or asked again."""
    seen = list[str]()
    at = Folder(tmp_path, LINES, width=3)
    at.draining = True
    await at.over()  # its index is there
    at.draining = False
    small = SmallDisk(monkeypatch, 300)

    async def paused(seconds: float, unless: asyncio.Event) -> None:
        assert run.outputs is not None
        assert run.outputs.problem is not None
        seen.append(run.outputs.problem.code)
        assert at.job.output.read_bytes()[-1:] in (b"", b"\n")
        small.room = 200

    monkeypatch.setattr(outputs, "paused", paused)
    run, over = at.run(), False
    while not over:
        with suppress(OSError):  # what the journal could not be told is told by the next run
            over = (await run.go()).over
        small.room = 200
        run = at.run()
    assert run.state.status == "completed"
    assert set(seen) == {"disk_full"}
    assert len(seen) > 3
    assert times(at.answers()) == IDS
    assert set(at.asked.values()) == {1}


async def test_a_batch_on_a_full_disk_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written is asked again by the next process."""
    at = Folder(tmp_path, LINES, width=3)
    at.draining = True
    await at.over()
    at.draining = False
    small = SmallDisk(monkeypatch, 700)
    run = at.run()

    async def paused(seconds: float, unless: asyncio.Event) -> None:
        run.stop()

    monkeypatch.setattr(outputs, "paused", paused)
    assert (await run.go()).status == "in_progress"
    small.room = 1 << 20
    assert (await at.over()).status == "completed"
    assert times(at.answers()) == IDS


async def test_lines_can_be_sent_to_one_model(tmp_path: Path) -> None:
    """Whatever model they name."""
    models = set[str]()

    async def endpoint(body: bytes, gone: asyncio.Event) -> Answer:
        models.add(str(body.partition(b'"model":')[2][:6]))
        return GOOD

    at = Folder(tmp_path, LINES, endpoint=endpoint)
    await at.over(model="mine")
    assert models == {"b'\"mine\"'"}


async def test_a_file_that_is_no_batch_asks_nothing(tmp_path: Path) -> None:
    """All that is wrong in it is told."""
    at = Folder(tmp_path, LINES + b"{\n" + jsonl([line(3)]))
    state = await at.over()
    assert state.status == "failed"
    assert [(one.line, one.code) for one in state.problems] == [(13, "invalid_json_line"), (14, "duplicate_custom_id")]
    assert not at.asked
    assert not at.job.index.exists()
    assert sorted(os.listdir(tmp_path)) == ["in", "journal"]
