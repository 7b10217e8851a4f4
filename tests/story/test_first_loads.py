"""A file that was never loaded before is tried in a child first; so is a build of llama.cpp on a CPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from helpers.both_backends import SIZES
from helpers.project import TOP
from helpers.runtime import until
from helpers.spoilt_gguf import SPOILT, UNKNOWN, spoilt_gguf
from helpers.tiny_bert import tiny_bert
from helpers.tiny_gguf import tiny_gguf

import erllama_py as erllama
from erllama_py.cpus import usable_cpus
from erllama_py.engine.children import spawn
from erllama_py.engine.children.ended import Ended
from erllama_py.engine.children.spawn import CannotSpawn
from erllama_py.engine.llama import LlamaBackend, probe
from erllama_py.options.model import ContextOpts, ModelConfig

pytestmark = pytest.mark.anyio

RAN = Ended("ended", 0, None, ("library",), "", 0.1)


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has passed in this process."""
    monkeypatch.setattr(probe, "_passed", set())


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks of the children that were begun."""
    begun: list[str] = []

    def run(task: str, given: Any, **options: Any) -> Ended:
        begun.append(task)
        return spawn.run_child(task, given, **options)

    monkeypatch.setattr(probe, "run_child", run)
    return begun


def answer(monkeypatch: pytest.MonkeyPatch, said: Callable[[str], Ended]) -> None:
    """Have children end like this."""
    monkeypatch.setattr(probe, "run_child", lambda task, given, **options: said(task))


async def load(home: Path, path: Path, **config: Any) -> None:
    fields: Any = {"model_path": path, "context_opts": SIZES, **config}
    async with erllama.Runtime(home=home) as runtime:
        await runtime.load_model("m", fields)


@pytest.mark.either_loop
@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize(
    "tried", [pytest.param(True, marks=pytest.mark.slow, id="tried"), pytest.param(False, id="not tried")]
)
async def test_a_file_that_would_end_the_process_is_refused(tmp_path: Path, how: str, tried: bool) -> None:
    """With the reason in words, whether it was tried in a child or not."""
    path = spoilt_gguf(SPOILT[how], tmp_path / "spoilt.gguf")
    with pytest.raises(erllama.UnsupportedModel, match=SPOILT[how].said):
        await load(tmp_path / "home", path, probe=tried)


@pytest.mark.slow
async def test_what_nobody_knows_of_is_found_out_by_a_child(tmp_path: Path) -> None:
    """llama.cpp's own last words are the reason; nothing is remembered of it, and `inspect_model` says the same."""
    path = spoilt_gguf(UNKNOWN, tmp_path / "spoilt.gguf")
    for _ in range(2):
        with pytest.raises(erllama.UnsupportedModel, match=r"SIGABRT.*reads the file.*fatal error"):
            await load(tmp_path / "home", path)
    with pytest.raises(erllama.UnsupportedModel, match="SIGABRT"):
        erllama.inspect_model(path)


@pytest.mark.slow
async def test_a_file_is_tried_once(tmp_path: Path, tries: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By this process, and by those after it; again where it is another file, or its context is of another kind."""
    path, home = tiny_gguf("dense", tmp_path), tmp_path / "home"
    await load(home, path)
    await load(home, path, context_opts={**SIZES, "n_ctx": 256})
    assert tries == ["probe_build", "probe_file"]
    monkeypatch.setattr(probe, "_passed", set())  # another process
    await load(home, path)
    assert tries == ["probe_build", "probe_file"]
    await load(home, path, context_opts={**SIZES, "flash_attn": True, "type_v": "q8_0"})
    os.utime(path, ns=(1, 1))
    await load(home, path)
    assert tries == ["probe_build", *["probe_file"] * 3]


async def test_without_a_probe_there_is_no_child(tmp_path: Path, tries: list[str]) -> None:
    """`probe=False` is obeyed by a load and an inspection."""
    path = tiny_gguf("dense", tmp_path)
    await load(tmp_path / "home", path, probe=False)
    erllama.inspect_model(path, probe=False)
    assert tries == []


@pytest.mark.slow
async def test_a_home_that_cannot_be_written_costs_a_try_in_each_process(tmp_path: Path, tries: list[str]) -> None:
    """Here it is a file."""
    (tmp_path / "home").write_text("not a folder")
    await load(tmp_path / "home", tiny_gguf("dense", tmp_path))
    await load(tmp_path / "home", tiny_gguf("dense", tmp_path))
    assert tries == ["probe_build", "probe_file"]


@pytest.mark.slow
async def test_many_loads_of_one_file_wait_for_one_try(tmp_path: Path, tries: list[str]) -> None:
    """Side by side."""
    fields: Any = {"model_path": tiny_gguf("dense", tmp_path), "context_opts": SIZES}
    async with erllama.Runtime(home=tmp_path / "home") as runtime, anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(runtime.load_model, f"m{number}", fields)
    assert tries == ["probe_build", "probe_file"]


async def test_files_that_hang_do_not_hold_up_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who wait for a file that was not done in time are told so with the first; other files go on before that."""
    hang, hung = threading.Event(), list[str]()

    def run(task: str, given: Any, **options: Any) -> Ended:
        if "hangs" not in given.get("path", ""):
            return RAN
        hung.append(given["path"])
        hang.wait()
        return Ended("out of time", -9, "SIGKILL", ("load",), "", 60.0)

    async def refused(number: int) -> None:
        with pytest.raises(erllama.UnsupportedModel, match="60 s"):
            await load(tmp_path / "home", tmp_path / f"hangs {number}.gguf")

    monkeypatch.setattr(probe, "run_child", run)
    monkeypatch.setattr(probe, "PATIENCE_SECONDS", 0.0)
    sound = tiny_gguf("dense", tmp_path)
    numbers = range(len(usable_cpus()))
    for number in numbers:
        shutil.copy(sound, tmp_path / f"hangs {number}.gguf")
    async with anyio.create_task_group() as group:
        for number in (*numbers, *numbers):
            group.start_soon(refused, number)
        await until(lambda: len(hung) == len(numbers))
        await load(tmp_path / "home", sound)
        hang.set()
    assert len(hung) == len(numbers)


FORKS = """
import os, threading
from erllama_py.engine.llama import probe
inside, leave = threading.Event(), threading.Event()
def hold():
    with probe._alone("file", lambda: True):
        inside.set()
        leave.wait()
threading.Thread(target=hold).start()
inside.wait()
pid = os.fork()
if not pid:
    looks = iter([True, True])
    with probe._alone("file", lambda: next(looks, False)):
        os._exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
leave.set()
raise SystemExit(code)
"""


@pytest.mark.slow
def test_a_forked_process_does_not_wait_for_what_its_parent_tries() -> None:
    """Nobody in it would ever be done with that."""
    command = [sys.executable, "-W", "ignore", "-c", FORKS]
    assert subprocess.run(command, env={**os.environ, "PYTHONPATH": str(TOP)}, check=False).returncode == 0


@pytest.mark.parametrize(("asked", "tried"), [(0, 4096), (512, 512), ((1 << 31) - 1, 4096)])
async def test_a_child_takes_no_memory_for_large_contexts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int, tried: int
) -> None:
    """Whether there is room for all of its cells is found out before they are made, and not by a child."""
    given: dict[str, Any] = {}

    def run(task: str, told: Any, **options: Any) -> Ended:
        given[task] = told
        return RAN

    monkeypatch.setattr(probe, "run_child", run)
    config = ModelConfig(
        model_path=str(tiny_gguf("dense", tmp_path)), context_opts=ContextOpts(n_ctx=asked, n_batch=64, n_ubatch=64)
    )
    LlamaBackend("m", config, tmp_path / "home").inspect()
    assert given["probe_file"]["context"]["n_ctx"] == tried


async def test_a_cancelled_load_ends_its_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, however long its time is."""
    started: list[str] = []
    over: list[str] = []

    def run(task: str, given: Any, *, seconds: float, wanted: Callable[[], bool]) -> Ended:
        if task == "probe_build":
            return RAN
        started.append(task)
        while wanted():
            pass
        over.append(task)
        return Ended("unwanted", -9, "SIGKILL", (), "", 0.1)

    monkeypatch.setattr(probe, "run_child", run)
    async with anyio.create_task_group() as group:
        group.start_soon(load, tmp_path / "home", tiny_gguf("dense", tmp_path))
        await until(lambda: bool(started))
        group.cancel_scope.cancel()
    await until(lambda: bool(over))


async def test_where_no_child_can_be_begun_a_load_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, and nothing is remembered; what is known to be unsound is refused all the same."""

    def run(task: str) -> Ended:
        raise CannotSpawn("there is no interpreter")

    answer(monkeypatch, run)
    await load(tmp_path / "home", tiny_gguf("dense", tmp_path))
    with pytest.raises(erllama.UnsupportedModel, match="block_count"):
        await load(tmp_path / "home", spoilt_gguf(SPOILT["600 layers"], tmp_path / "spoilt.gguf"))
    assert not (tmp_path / "home" / "probes").exists()


@pytest.mark.parametrize(
    ("ended", "error", "words"),
    [
        (Ended("out of time", -9, "SIGKILL", ("load",), "", 60.0), erllama.UnsupportedModel, "60 s.*probe=False"),
        (Ended("crashed", -9, "SIGKILL", ("load",), "", 1.0), erllama.ModelLoadError, "SIGKILL.*memory"),
        (Ended("crashed", 0, None, (), "", 1.0), erllama.UnsupportedModel, "without a word"),
    ],
)
async def test_other_ends_of_a_child_have_their_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: Ended, error: type[Exception], words: str
) -> None:
    """Too slow, killed from outside, gone."""
    answer(monkeypatch, lambda task: RAN if task == "probe_build" else ended)
    with pytest.raises(error, match=words):
        await load(tmp_path / "home", tiny_gguf("dense", tmp_path))


async def test_a_child_that_fails_in_python_says_nothing_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load goes on."""
    answer(monkeypatch, lambda task: Ended("failed", 1, None, (), "ImportError: no module", 0.1))
    await load(tmp_path / "home", tiny_gguf("dense", tmp_path))


@pytest.mark.slow
async def test_a_context_for_embeddings_is_tried_before_it_is_made(tmp_path: Path, tries: list[str]) -> None:
    """By the first call of `embed`, once."""
    async with erllama.Runtime(home=tmp_path / "home") as runtime:
        fields: Any = {"model_path": tiny_bert(tmp_path), "context_opts": SIZES}
        model = await runtime.load_model("m", fields)
        assert tries == ["probe_build", "probe_file"]
        await model.embed(["a"])
        await model.embed(["b"])
    assert tries == ["probe_build", "probe_file", "probe_file"]


# --- a build of llama.cpp that traps ----------------------------------------------------------------------------------

TRAPS = "void ggml_backend_sched_graph_compute_async(void) { __builtin_trap(); }\n"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="a library that traps needs a C compiler")
async def test_a_build_that_traps_ends_a_child_and_no_application(
    tmp_path: Path, tries: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp's function that computes a graph is replaced by an illegal instruction, in children alone. The error
    says how to install a build that works; it is remembered, and a sound build is tried anew."""
    (tmp_path / "traps.c").write_text(TRAPS)
    await anyio.run_process(["cc", "-shared", "-fPIC", "-o", tmp_path / "traps.so", tmp_path / "traps.c"])
    path, home = tiny_gguf("dense", tmp_path), tmp_path / "home"
    with monkeypatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(tmp_path / "traps.so"))
        for _ in range(2):
            with pytest.raises(erllama.UnusableBuild, match=r"while it decodes.*-DGGML_NATIVE=OFF") as caught:
                await load(home, path)
            assert caught.value.signal in ("SIGILL", "SIGTRAP")
    assert tries == ["probe_build"], "the second time it was known"
    monkeypatch.setattr(probe, "library_files", lambda: [("libllama.so", 1, 1)])  # another build was installed
    await load(home, path)
    assert tries == ["probe_build", "probe_build", "probe_file"]


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (Ended("ended", 11, None, ("decode",), "", 0.1), "wrong numbers"),
        (Ended("ended", 10, None, ("load",), "no such thing", 0.1), "does not load a sound model: no such thing"),
        (Ended("crashed", -11, "SIGSEGV", ("decode",), "", 0.1), "SIGSEGV ended llama.cpp"),
    ],
)
async def test_a_build_that_does_not_work_is_an_error_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: Ended, words: str
) -> None:
    """However that shows."""
    answer(monkeypatch, lambda task: ended if task == "probe_build" else RAN)
    with pytest.raises(erllama.UnusableBuild, match=words):
        await load(tmp_path / "home", tiny_gguf("dense", tmp_path))


@pytest.mark.parametrize(
    "ended",
    [Ended("out of time", -9, "SIGKILL", (), "", 60.0), Ended("crashed", -9, "SIGKILL", (), "", 1.0)],
)
async def test_what_comes_from_outside_says_nothing_of_a_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: Ended
) -> None:
    """The load goes on; the next process tries again."""
    answer(monkeypatch, lambda task: ended if task == "probe_build" else RAN)
    await load(tmp_path / "home", tiny_gguf("dense", tmp_path))
    assert await tasks_of_another_process(tmp_path, monkeypatch) == ["probe_build"]


@pytest.mark.parametrize(
    ("ended", "anew"),
    [
        (Ended("crashed", 0, None, ("decode",), "", 0.1), True),  # its code was lost: it may have been killed
        (Ended("crashed", None, None, ("decode",), "", 0.1), True),
        (Ended("ended", 10, None, ("load",), "no memory", 0.1), True),
        (Ended("crashed", -6, "SIGABRT", ("load",), "std::bad_alloc", 0.1), True),
        (Ended("ended", 11, None, ("decode",), "", 0.1), False),
        (Ended("crashed", -4, "SIGILL", ("decode",), "", 0.1), False),
    ],
)
async def test_a_bad_build_is_remembered_only_where_nothing_else_can_be_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: Ended, anew: bool
) -> None:
    """Memory that ran short, or who kills processes, would else be held against it for ever."""
    answer(monkeypatch, lambda task: ended if task == "probe_build" else RAN)
    with pytest.raises(erllama.UnusableBuild):
        await load(tmp_path / "home", tiny_gguf("dense", tmp_path))
    if anew:
        assert await tasks_of_another_process(tmp_path, monkeypatch) == ["probe_build", "probe_file"]
    else:
        with pytest.raises(erllama.UnusableBuild):
            await tasks_of_another_process(tmp_path, monkeypatch)


async def tasks_of_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is tried where the children are sound now."""
    tasks: list[str] = []

    def run(task: str) -> Ended:
        tasks.append(task)
        return RAN

    monkeypatch.setattr(probe, "_passed", set())
    answer(monkeypatch, run)
    await load(tmp_path / "home", tiny_gguf("dense", tmp_path))
    return tasks
