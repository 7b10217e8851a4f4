"""What begins in a process: its interpreter, an engine, an embedder. One that does not is found as any hang is."""

from __future__ import annotations

import errno
import os
import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest
from helpers.anywhere import BUFFERS, Anywhere, configuration, nothing_left, running
from helpers.engine import ends, generate
from helpers.runtime import until

import erllama_py as erllama
from erllama_py.engine.children import spawn
from erllama_py.engine.embedding import EmbedderOpts
from erllama_py.engine.evidence import EngineDied
from erllama_py.engine.process import child as children
from erllama_py.engine.process import trial
from erllama_py.engine.process.child import Child
from erllama_py.engine.process.life import child_process, watchdog
from erllama_py.engine.process.wire.frames import Stop

pytestmark = pytest.mark.anyio
OPTS = EmbedderOpts(ranks=False, threads=1)


async def block_main_thread(one: Anywhere) -> Any:
    """Its main thread waits for the end of an engine that hangs, as it does at an end; the child."""
    engine: Any = one.engine
    one.engine.submit(generate(1, range(5)))
    await until(lambda: engine._recorder.doing().operation == "prefill")
    engine._child._control.send(Stop())
    return engine._child


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A begin has little time."""
    monkeypatch.setattr(children, "START_SECONDS", 0.1)
    monkeypatch.setattr(watchdog, "ANSWER_SECONDS", 0.1)


@pytest.mark.usefixtures("soon")
async def test_an_embedder_that_does_not_begin_ends_the_process() -> None:
    """The main thread hangs, which is to begin it. The engine beside it has its own time still."""
    with nothing_left():
        async with running(configuration("process", hang_decode_after=0)) as one:
            await block_main_thread(one)
            embedder = one.source.embedder(OPTS)
            with pytest.raises(EngineDied) as died:
                await anyio.to_thread.run_sync(embedder.load)
            await anyio.to_thread.run_sync(embedder.close)
            assert died.value.report.reason == "watchdog"
            assert died.value.report.problem.endswith(children.NOT_BEGUN)


@pytest.mark.usefixtures("soon")
async def test_an_engine_that_does_not_begin_over_weights_ends_the_process() -> None:
    """A companion's."""
    with nothing_left():
        async with running(configuration("process", hang_decode_after=0)) as one:
            await block_main_thread(one)
            guest = Anywhere(configuration("process"), one)
            with pytest.raises(EngineDied) as died:
                await guest.load()
            assert await guest.engine.stop(60)
            assert died.value.report.reason == "watchdog"
            assert died.value.report.problem.endswith(children.NOT_BEGUN)


async def test_what_has_begun_has_the_time_of_its_work() -> None:
    """However little a begin has: of an embedder that nobody asks for anything, and of a load."""
    with nothing_left():
        async with running(configuration("process")) as one:
            engine: Any = one.engine
            child: Child = engine._child
            embedder: Any = one.source.embedder(OPTS)
            await until(lambda: embedder._recorder.doing().operation == "idle")
            assert not child.progress().has_work
            await anyio.to_thread.run_sync(embedder.load)
            await anyio.to_thread.run_sync(embedder.close)
            guest = Anywhere(configuration("process", load_seconds=3600.0), one)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(guest.load)
                await until(lambda: child.progress().doing == "load")
                assert child.progress().patience == children.LOAD_SECONDS
                tasks.cancel_scope.cancel()
            assert await guest.engine.stop(60)
            one.engine.submit(generate(1, range(5)))
            await one.until(ends(1))


async def test_a_start_and_what_begins_after_it_have_their_own_time() -> None:
    """Beats tell them apart: the watchdog begins anew with the second."""
    one = Anywhere(configuration("process", load_seconds=3600.0))
    engine: Any = one.engine
    seen = list[tuple[int, str]]()

    def has_begun() -> bool:
        if engine._child is not None:
            progress = engine._child.progress()
            seen.append((progress.beats, progress.doing))
        return bool(seen) and seen[-1][1] == "load"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.load)
        await until(has_begun)
        tasks.cancel_scope.cancel()
    assert await one.engine.stop(60)
    beats = {doing: beats for beats, doing in seen}
    assert beats["its start"] < beats.get("starting", 0) < beats["load"]


async def test_a_process_that_does_not_come_up_says_what_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load is refused with it, and so is what `check_isolation` and the doctor tell."""
    monkeypatch.setattr(children, "START_SECONDS", 0.0)
    monkeypatch.setattr(trial, "START_SECONDS", 0.0)
    monkeypatch.setattr(watchdog, "ANSWER_SECONDS", 0.0)
    monkeypatch.setattr(Child, "_on_frame", lambda *_: None)  # whatever it says, it is not heard
    async with erllama.Runtime() as runtime:
        config: Any = {"backend": "stub", "stub": {"load_seconds": 3600.0}, "isolation": "process"}
        with pytest.raises(erllama.ModelLoadError, match="may be why") as refused:
            await runtime.load_model("m", config)
        assert "did not get on for" in str(refused.value)
        assert 'isolation="thread"' in str(refused.value)
    found = await anyio.to_thread.run_sync(erllama.check_isolation)
    assert found.problem is not None
    assert 'isolation="thread"' in found.problem


async def test_what_a_process_is_begun_with_stays_open_until_it_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its start is cancelled, too: the number could be that of another file by then."""
    begun, go_on, open_then = threading.Event(), threading.Event(), list[bool]()

    def slow(task: str, given: Any, **more: Any) -> Any:
        begun.set()
        go_on.wait()
        open_then.append(one._theirs.fileno() == given["control"])
        return spawn.begin(task, given, **more)

    monkeypatch.setattr(child_process, "begin", slow)
    with nothing_left():
        one = Child("m", configuration("process"), BUFFERS)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.start)
            await until(begun.is_set)
            tasks.cancel_scope.cancel()
        go_on.set()
        await one.end()
        assert open_then == [True]


@pytest.mark.parametrize("where", ["child.LoopChannel", "engine.LoopChannel", "engine.new_page"])
async def test_what_cannot_be_had_at_a_begin_costs_nothing(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a descriptor nor a seat among those that share the buffers: as where the loop may watch no other file."""

    def none_left(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"erllama_py.engine.process.{where}", none_left)
    with nothing_left():
        one = Anywhere(configuration("process"))
        with pytest.raises(OSError, match="No space left"):
            await one.load()
        assert await one.engine.stop(60)
    assert not BUFFERS.share()._seats
