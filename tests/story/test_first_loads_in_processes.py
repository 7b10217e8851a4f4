"""A file that is new is tried by the process that is to hold it: with the errors of a thread, before anybody else reads
its vocabulary, and without another process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.to_thread
import pytest
from helpers.anywhere import BUFFERS, Anywhere
from helpers.both_backends import SIZES
from helpers.checkpoints import Strike, at_each_checkpoint
from helpers.crafted_vocabularies import CRAFTED
from helpers.leftovers import belongings, children, same_as
from helpers.mutated_gguf import mutated
from helpers.runtime import until
from helpers.spoilt_gguf import SPOILT, UNKNOWN, spoilt_gguf
from helpers.tiny_bert import tiny_bert
from helpers.tiny_gguf import tiny_gguf
from helpers.tried_files import (
    Wanted,
    config,
    killing_in,
    load,
    one_pipe,
    refused,
    refused_on_a_thread,
    the_child,
)

import erllama_py as erllama
from erllama_py.engine.children import spawn
from erllama_py.engine.llama import LlamaBackend, probe
from erllama_py.engine.llama.probe_words import Bounds
from erllama_py.engine.process import trying
from erllama_py.engine.process.child import Child
from erllama_py.options.model import parse_model_config

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

HOSTILE = {**SPOILT, **CRAFTED, "unknown": UNKNOWN}
MUTATED = int(os.environ.get("ERLLAMA_MUTATED_FILES", "24"))


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has passed in this process, and the build is not tried."""
    monkeypatch.setattr(probe, "_passed", set())
    monkeypatch.setattr(probe.Probe, "build", lambda self, wanted: None)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks of all processes that were begun, and `try` for each file that one was told to try."""
    told, popen, try_file = list[str](), subprocess.Popen, Child.try_file

    def begin(command: list[str], **options: Any) -> Any:
        told.append(command[-2])
        return popen(command, **options)

    def noted(child: Child, *args: Any) -> None:
        told.append("try")
        try_file(child, *args)

    monkeypatch.setattr(subprocess, "Popen", begin)
    monkeypatch.setattr(Child, "try_file", noted)
    return told


# --- how many processes -----------------------------------------------------------------------------------------------


async def test_a_first_load_begins_one_process(tmp_path: Path, begun: list[str]) -> None:
    """It tries the file, and goes on. Loads after it try nothing, on a thread neither, in another application too."""
    path, home = tiny_gguf("dense", tmp_path), tmp_path / "home"
    await load(home, path)
    assert begun == ["host", "try"]
    await load(home, path)
    await load(home, path, "thread")
    assert begun == ["host", "try", "host"]
    probe._passed.clear()  # another application
    await load(home, path, "thread")
    await load(home, path)
    assert begun == ["host", "try", "host", "host"]


async def test_what_has_passed_on_a_thread_is_not_tried_by_a_process(tmp_path: Path, begun: list[str]) -> None:
    """Unless the file or its context is another one."""
    path, home = tiny_gguf("dense", tmp_path), tmp_path / "home"
    await load(home, path, "thread")
    probe._passed.clear()
    await load(home, path)
    assert begun == ["probe_file", "host"]
    await load(home, path, context_opts={**SIZES, "flash_attn": True, "type_v": "q8_0"})
    os.utime(path, ns=(1, 1))
    await load(home, path)
    assert begun == ["probe_file", "host", *["host", "try"] * 2]


async def test_without_a_probe_nothing_is_tried(tmp_path: Path, begun: list[str]) -> None:
    """What is known to be unsound is refused before any process begins."""
    await load(tmp_path / "home", tiny_gguf("dense", tmp_path), probe=False)
    assert begun == ["host"]
    with pytest.raises(erllama.UnsupportedModel, match="block_count"):
        await load(tmp_path / "home", spoilt_gguf(SPOILT["600 layers"], tmp_path / "spoilt.gguf"), probe=False)
    assert begun == ["host"]


async def test_a_restart_tries_nothing(tmp_path: Path, begun: list[str]) -> None:
    """What has passed has passed."""
    path = tiny_gguf("dense", tmp_path)
    async with erllama.Runtime(home=tmp_path / "home") as runtime:
        model = await runtime.load_model("m", config(path))
        os.kill(model.info.pid or 0, signal.SIGSEGV)
        await until(lambda: model.info.restarts == 1 and model.info.phase == "idle")
    assert begun == ["host", "try", "host"]


async def test_loads_of_one_file_at_the_same_time_try_it_once(tmp_path: Path, begun: list[str]) -> None:
    """On threads and in processes."""
    path = tiny_gguf("dense", tmp_path)
    async with erllama.Runtime(home=tmp_path / "home") as runtime, anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(runtime.load_model, f"m{number}", config(path, "thread" if number % 3 else "process"))
    tries = [task for task in begun if task != "host"]
    assert tries in (["try"], ["probe_file"])
    assert begun.count("host") == 2


async def test_who_waits_for_the_try_of_another_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: list[str]
) -> None:
    """Its process ends; the try goes on, and the event loop did all the time."""
    gate, path = threading.Event(), tiny_gguf("dense", tmp_path)

    def held(words: int, written: int, deadline: float, wanted: Wanted) -> Any:
        gate.wait()
        return spawn.listen(words, written, deadline, wanted)

    monkeypatch.setattr(trying, "listen", held)
    async with erllama.Runtime(home=tmp_path / "home") as runtime:
        first = asyncio.create_task(runtime.load_model("a", config(path)))
        await until(lambda: "try" in begun)
        second = asyncio.create_task(runtime.load_model("b", config(path)))
        await until(lambda: "erllama-words-b" in {thread.name for thread in threading.enumerate()})
        second.cancel()
        await asyncio.wait((second,))
        await until(lambda: len(children()) == 1)
        assert not first.done()
        gate.set()
        await first
    assert (begun.count("try"), begun.count("host")) == (1, 2)


# --- the order --------------------------------------------------------------------------------------------------------


async def test_nobody_reads_the_vocabulary_before_the_try_has_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the application nor the engine: the file is tried first."""
    order = list[str]()
    for owner, name in ((Child, "try_file"), (Child, "start_engine"), (LlamaBackend, "load")):
        monkeypatch.setattr(owner, name, noted(order, name, getattr(owner, name)))
    listen = spawn.listen

    def heard(*args: Any) -> Any:
        got = listen(*args)
        order.append(f"heard {b'done 0' in got[0]}")
        return got

    monkeypatch.setattr(trying, "listen", heard)
    await load(tmp_path / "home", tiny_gguf("dense", tmp_path))
    assert order[:2] == ["try_file", "heard True"]
    assert sorted(order[2:]) == ["load", "start_engine"]


def noted(order: list[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **more: Any) -> Any:
        order.append(name)
        return function(*args, **more)

    return call


async def test_a_hostile_vocabulary_is_never_read_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child has ended, and with it the load."""
    order = list[str]()
    monkeypatch.setattr(LlamaBackend, "load", noted(order, "load", LlamaBackend.load))
    error = await refused(tmp_path / "home", spoilt_gguf(UNKNOWN, tmp_path / "spoilt.gguf"))
    assert isinstance(error, erllama.UnsupportedModel)
    assert order == []


# --- hostile files ----------------------------------------------------------------------------------------------------


@pytest.mark.either_loop
@pytest.mark.parametrize("how", HOSTILE)
async def test_a_hostile_file_is_refused_as_on_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Word for word. The application lives, nothing is left, and nothing is remembered."""
    await is_refused_alike(monkeypatch, how, tmp_path)


async def is_refused_alike(monkeypatch: pytest.MonkeyPatch, how: str, folder: Path) -> None:
    monkeypatch.setattr(probe, "BOUNDS", Bounds(text_seconds=0.3, memory=512 << 20))
    home, path = folder / "home", spoilt_gguf(HOSTILE[how], folder / "hostile.gguf")
    expected = await refused_on_a_thread(home, path)
    before = belongings()
    error = await refused(home, path)
    assert repr(error) == repr(expected)
    assert (type(error), str(error)) == (erllama.UnsupportedModel, str(expected))
    del error
    await same_as(before)
    assert not (home / "probes").exists()


@pytest.mark.either_loop
@pytest.mark.parametrize("how", ["RWKV without a byte", "SentencePiece without a byte"])
async def test_what_has_no_known_reason_is_told_as_on_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The time that the texts took, and llama.cpp's last words."""
    monkeypatch.setattr("erllama_py.engine.llama.first_look.find_load_fault", lambda *args: None)
    await is_refused_alike(monkeypatch, how, tmp_path)


@pytest.mark.either_loop
async def test_mutated_files_come_to_the_same(tmp_path: Path) -> None:
    """What a thread refuses is refused, with the same words, or as too large: sizes are looked at before there is a
    process. Others load, or crash a process that is not this."""
    path = tmp_path / "mutated.gguf"
    for number in range(MUTATED):
        path.write_bytes(mutated(number, tmp_path))
        expected = await refused_on_a_thread(tmp_path / f"home {number}", path)
        error = await refused(tmp_path / f"another {number}", path)
        if expected is not None and not isinstance(error, erllama.InsufficientMemory):
            assert (number, repr(error)) == (number, repr(expected))


@pytest.mark.either_loop
async def test_a_file_without_a_context_for_embeddings_is_refused_as_on_a_thread(tmp_path: Path) -> None:
    """Word for word, and the model stays: what would have ended its process has ended another one."""
    path, said = tiny_bert(tmp_path, spoilt=True), list[str]()
    for isolation in ("thread", "process"):
        async with erllama.Runtime(home=tmp_path / isolation) as runtime:
            model = await runtime.load_model("m", config(path, isolation))
            for _ in range(2):
                with pytest.raises(erllama.UnsupportedModel) as refused:
                    await model.embed(["cat"])
                said.append(str(refused.value))
            assert (model.info.restarts, model.info.phase) == (0, "idle")
    assert "SIGABRT" in said[0]
    assert len({*said}) == 1


async def test_a_context_for_embeddings_is_tried_once(tmp_path: Path) -> None:
    """Also after a crash of the process that had it tried."""
    home = tmp_path / "home"
    async with erllama.Runtime(home=home) as runtime:
        model = await runtime.load_model("m", config(tiny_bert(tmp_path)))
        loaded = remembered(home)
        await model.embed(["cat"])
        tried = remembered(home)
        assert len(tried) == len(loaded) + 1
        os.kill(model.info.pid or 0, signal.SIGSEGV)
        await until(lambda: model.info.restarts == 1 and model.info.phase == "idle")
        await model.embed(["cat"])
        assert remembered(home) == tried


def remembered(home: Path) -> dict[str, int]:
    """The files that say what has passed, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (home / "probes").iterdir()}


# --- what else may end it ---------------------------------------------------------------------------------------------


async def test_a_try_that_is_not_done_in_time_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its child; the error says so."""
    monkeypatch.setattr(probe, "BOUNDS", Bounds(seconds=0.5))
    before, listen = belongings(), spawn.listen

    def stopped(words: int, written: int, deadline: float, wanted: Wanted) -> Any:
        os.kill(the_child(), signal.SIGSTOP)
        return listen(words, written, deadline, wanted)

    monkeypatch.setattr(trying, "listen", stopped)
    error = await refused(tmp_path / "home", tiny_gguf("dense", tmp_path))
    assert isinstance(error, erllama.UnsupportedModel)
    assert "not done in 0 s; `probe=False`" in str(error)
    del error
    await same_as(before)


@pytest.mark.parametrize("stage", [None, "library", "load", "vocabulary", "graph", "end"])
async def test_a_child_that_is_killed_from_outside_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str | None
) -> None:
    """In whatever stage: the file is not at fault, and the next load is like the first."""
    path, home, before = tiny_gguf("dense", tmp_path), tmp_path / "home", belongings()
    with monkeypatch.context() as patch:
        patch.setattr(trying, "listen", killing_in(stage))
        error = await refused(home, path)
        assert type(error) is erllama.ModelLoadError
        assert "SIGKILL" in str(error)
        del error
    await same_as(before)
    await load(home, path)


async def test_a_try_that_fails_in_python_says_nothing_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: list[str]
) -> None:
    """The same process loads it; what is known to be unsound is refused."""
    monkeypatch.setattr(trying, "json", SimpleNamespace(dumps=lambda given: "{}"))
    await load(tmp_path / "home", tiny_gguf("dense", tmp_path))
    assert begun == ["host", "try"]
    error = await refused(tmp_path / "home", spoilt_gguf(SPOILT["600 layers"], tmp_path / "spoilt.gguf"))
    assert "block_count" in str(error)
    assert not (tmp_path / "home" / "probes").exists()


@pytest.mark.parametrize("how", ["no pipe", "no sense"])
async def test_a_try_that_cannot_be_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Without a descriptor left the load goes on; a child that cannot read what it is told ends, and the load too."""
    before = belongings()
    if how == "no pipe":
        monkeypatch.setattr(trying, "os", SimpleNamespace(pipe=one_pipe()))
        await load(tmp_path / "home", tiny_gguf("dense", tmp_path))
    else:
        monkeypatch.setattr(trying, "json", SimpleNamespace(dumps=lambda given: "{"))
        error = await refused(tmp_path / "home", tiny_gguf("dense", tmp_path))
        assert type(error) is erllama.ModelLoadError
        assert "exit code 1" in str(error)
        del error
    monkeypatch.undo()
    await same_as(before)


async def test_a_load_that_is_cancelled_at_any_point_leaves_nothing(tmp_path: Path) -> None:
    """Neither a process, nor a thread, nor a descriptor; and nothing waits for a turn that nobody has."""
    path, home = tiny_gguf("dense", tmp_path), tmp_path / "home"
    made = parse_model_config(config(path))
    await anyio.to_thread.run_sync(BUFFERS.share)
    before = belongings()

    async def scenario(strike: Strike) -> None:
        probe._passed.clear()
        one = Anywhere(made, home=home / str(strike.at))
        await anyio.to_thread.run_sync(one.source.inspect)
        with suppress(asyncio.CancelledError):
            await asyncio.create_task(strike.coroutine(one.load()))
        assert await one.engine.stop(60)
        await until(lambda: not probe._under_way)

    assert await at_each_checkpoint(scenario) >= 3
    await same_as(before)


# --- afterwards -------------------------------------------------------------------------------------------------------


async def test_the_limits_of_a_try_end_with_it(tmp_path: Path) -> None:
    """Of memory, of CPU time; and a crash leaves its trace as ever."""
    async with erllama.Runtime(home=tmp_path / "home") as runtime:
        model = await runtime.load_model("m", config(tiny_gguf("dense", tmp_path)))
        pid = model.info.pid or 0
        assert data_limit(pid) == data_limit(os.getpid())
        os.kill(pid, signal.SIGSEGV)
        await until(lambda: model.info.last_crash is not None)
        assert model.info.last_crash is not None
        assert any("Fatal Python error" in line for line in model.info.last_crash.log_lines)


def data_limit(pid: int) -> str:
    (line,) = (one for one in Path(f"/proc/{pid}/limits").read_text().splitlines() if one.startswith("Max data size"))
    return line


async def test_what_llama_cpp_says_in_a_try_is_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is some hundred lines of a load, each of which would be a warning."""
    with caplog.at_level("WARNING"):
        await load(tmp_path / "home", tiny_gguf("dense", tmp_path))
    assert [record.getMessage() for record in caplog.records] == []
