"""What was damaged, or fails while a batch is worked on: no answer is lost, doubled, or given to another line."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiofiles
import msgspec
import pytest
from helpers.batch_runs import GOOD, Folder
from helpers.batches import jsonl, line, times

from erllama_py.serve.batches import disk, outputs, running
from erllama_py.serve.batches.asking import Answer
from erllama_py.serve.batches.lines import LineProblem

pytestmark = pytest.mark.anyio
LINES = jsonl(line(number) for number in range(10))
IDS = {f"line-{number}": 1 for number in range(10)}


async def checked(at: Folder) -> Folder:
    """A batch whose input was checked, and of which no line was begun."""
    at.draining = True
    assert (await at.over()).status == "in_progress"
    at.draining = False
    return at


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be done now is tried again at once."""

    async def paused(seconds: float, unless: asyncio.Event) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(outputs, "paused", paused)


@pytest.mark.usefixtures("prompt")
async def test_a_line_that_could_not_be_cut_off_is_cut_off_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of it was written, and then the disk took nothing: what is in the output is whole lines all the same."""
    at, real, failed = await checked(Folder(tmp_path, LINES)), aiofiles.open, list[str]()

    async def opened(path: Path, *given: Any, **how: Any) -> Any:
        file = await real(path, *given, **how)
        write, truncate = file.write, file.truncate

        async def torn(data: memoryview) -> int:
            if path == at.job.output and not failed:
                await write(data[:10])
                failed.append("write")
                raise OSError(errno.EIO, "Input/output error")
            return int(await write(data))

        async def uncut(size: int) -> None:
            if failed == ["write"]:
                failed.append("truncate")
                raise OSError(errno.EIO, "Input/output error")
            await truncate(size)

        file.write, file.truncate = torn, uncut
        return file

    monkeypatch.setattr(aiofiles, "open", opened)
    assert (await at.over()).completed == 10
    assert failed == ["write", "truncate"]
    assert times(at.answers()) == IDS


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"".join(data.splitlines(keepends=True)[:6]),
        lambda data: data[:-5],
        lambda data: b"\xff" + data,
        lambda data: data.replace(b"[2,", b"[3,", 1),
        lambda data: b"".join(data.splitlines(keepends=True)[1:]),
        lambda data: b"",
    ],
    ids=["cut", "torn", "spoilt", "another line", "begins later", "empty"],
)
async def test_an_index_that_is_damaged_is_made_again(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    """Else the lines that it does not name would have no answer, and the batch would be completed."""
    at = await checked(Folder(tmp_path, LINES))
    at.job.index.write_bytes(spoil(at.job.index.read_bytes()))
    assert (await at.over()).completed == 10
    assert times(at.answers()) == IDS


async def test_a_batch_whose_index_is_made_again_can_be_stopped(tmp_path: Path) -> None:
    """It has not failed because of that: the next run goes on."""
    at = await checked(Folder(tmp_path, LINES))
    at.job.index.unlink()
    run = at.run()
    run.stop()
    assert (await run.go()).status == "in_progress"
    assert (await at.over()).completed == 10


async def test_answers_of_another_batch_are_none_of_this_one(tmp_path: Path) -> None:
    """A line that somebody put into the output hides no line without an answer."""
    at = await checked(Folder(tmp_path, LINES))
    at.job.output.write_bytes(jsonl({"id": f"batch_req_ff_{number}"} for number in (3, 99)))
    assert (await at.over()).completed == 10
    assert times(at.answers()) == IDS


@pytest.mark.parametrize(
    "changed", [b"".join(reversed(LINES.splitlines(keepends=True))), LINES.replace(b"custom_id", b"custom\xff\xfed")]
)
async def test_no_line_gets_the_answer_of_another(tmp_path: Path, changed: bytes) -> None:
    """An input whose lines are elsewhere by now: each of them says so."""
    at = await checked(Folder(tmp_path, LINES))
    at.job.input.write_bytes(changed)
    assert (await at.over()).failed == 10
    assert {one["error"]["code"] for one in at.answers(at.job.errors)} == {"input_file_changed"}
    assert not at.asked


@pytest.mark.usefixtures("prompt")
async def test_an_input_that_cannot_be_read_now_is_read_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process with too many open files is no reason for a line to fail."""
    at, calls, real = await checked(Folder(tmp_path, LINES)), 0, disk.read_at

    def read_at(*given: Any) -> bytes:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(*given)

    monkeypatch.setattr("erllama_py.serve.batches.running.read_at", read_at)
    state = await at.over()
    assert (state.completed, state.failed) == (10, 0)


async def test_a_model_that_is_away_holds_no_line_of_another_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lines come after those of models that are there; a few of them are asked at a time, until it is there."""
    waits = list[float]()
    away = ["other"]

    async def endpoint(body: bytes, gone: asyncio.Event) -> Answer:
        if msgspec.json.decode(body)["model"] in away:
            return Answer(503, b"{}", "r", "model_load_failed", 7.0)
        return GOOD

    async def paused(seconds: float, unless: asyncio.Event) -> None:
        waits.append(seconds)
        assert run.outputs is not None
        assert run.outputs.completed == 5
        away.clear()

    monkeypatch.setattr("erllama_py.serve.batches.running.paused", paused)
    data = jsonl(line(number, model="other" if number < 5 else "tiny") for number in range(10))
    at = Folder(tmp_path, data, endpoint=endpoint, width=1)
    run = at.run()
    assert (await run.go()).completed == 10
    assert times(at.answers()) == IDS
    assert at.asked.total() == 11
    assert 6 < waits[0] <= 7


async def test_a_batch_that_fails_half_way_keeps_its_answers(tmp_path: Path) -> None:
    """They were computed: who asked for them gets them."""
    published = list[int]()

    async def endpoint(body: bytes, gone: asyncio.Event) -> Answer:
        if at.asked.total() > 4:
            run.stop()
            return Answer(499, b"")
        return GOOD

    async def publish(run: running.Run) -> None:
        assert run.outputs is not None
        published.append(run.outputs.completed)

    at = Folder(tmp_path, LINES, endpoint=endpoint, width=1)
    run = at.run()
    await run.go()
    for path in (at.job.input, at.job.index):
        path.unlink()
    state = await at.over(publish=publish)
    assert (state.status, [one.code for one in state.problems]) == ("failed", ["input_file_not_found"])
    assert (state.completed, published) == (4, [4])
    assert len(at.answers()) == 4
    again = at.run()
    assert (again.state.status, again.state.completed) == ("failed", 4)


async def test_a_fault_while_a_batch_ends_is_its_end(tmp_path: Path) -> None:
    """It is not tried again for ever."""

    async def publish(run: running.Run) -> None:
        raise RuntimeError("broken")

    at = Folder(tmp_path, LINES)
    run = at.run(publish=publish)
    with pytest.raises(RuntimeError):
        await run.go()
    assert run.state.status == "finalizing"
    published = at.run()
    await published.fail(LineProblem("internal_error", "broken"))
    assert (published.state.status, published.state.completed) == ("failed", 10)
