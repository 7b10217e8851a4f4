"""A spare process: the model comes back in it, another one gets ready, and none outlives its model."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.anywhere import SIZES
from helpers.runtime import until
from helpers.tiny_gguf import tiny_gguf

import erllama_py as erllama
from erllama_py.buffers import BufferPool
from erllama_py.engine.process import child as children
from erllama_py.engine.process import spare as spares

pytestmark = [pytest.mark.anyio, pytest.mark.either_loop]

STUB: Any = {"backend": "stub", "isolation": "process", "spare": True}
GREEDY: dict[str, Any] = {"temperature": 0.0, "response_tokens": 8}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One gets ready at once; and no process is left."""
    monkeypatch.setattr(spares, "FILL_SECONDS", 0.0)
    monkeypatch.setattr(spares, "REFILL_SECONDS", 0.0)
    yield
    assert psutil.Process().children() == []


@asynccontextmanager
async def loaded(config: Any) -> AsyncIterator[tuple[erllama.Model, spares.SpareSlot]]:
    """A model whose spare stands ready."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", config)
        slot: Any = model._board.spare
        await until(lambda: slot.pid is not None)
        yield model, slot


def configuration(kind: str, models: Path) -> Any:
    if kind == "stub":
        return STUB
    path = tiny_gguf("dense", models)
    return {"model_path": path, "isolation": "process", "spare": True, "probe": False, "context_opts": SIZES}


def back(model: erllama.Model, gone: int | None) -> bool:
    """Whether it has come back, in another process than this."""
    return model.info.pid not in (gone, None) and model.info.phase == "idle"


def another(slot: spares.SpareSlot, gone: int | None) -> bool:
    """Whether a spare stands ready that is not this one."""
    return slot.pid not in (gone, None)


@pytest.mark.parametrize("kind", ["stub", "llama"])
async def test_a_model_comes_back_in_its_spare(kind: str, models: Path) -> None:
    """And says the same as before. Again and again: there is another one by then."""
    async with loaded(configuration(kind, models)) as (model, slot):
        before = (await model.complete("hello", **GREEDY)).reply
        for _ in range(2):
            first, second = model.info.pid, slot.pid
            words = model._board.vocabulary
            os.kill(first or 0, signal.SIGSEGV)
            await until(partial(back, model, first))
            assert model.info.pid == second
            assert (model._board.vocabulary is words) == (kind == "llama")
            assert (await model.complete("hello", **GREEDY)).reply == before
            await until(partial(another, slot, second))
        assert model.info.restarts == 2


async def test_a_spare_that_is_killed_is_replaced() -> None:
    """The model does not notice."""
    async with loaded(STUB) as (model, slot):
        pid, first = model.info.pid, slot.pid
        os.kill(first or 0, signal.SIGKILL)
        await until(partial(another, slot, first))
        assert (model.info.pid, model.info.restarts) == (pid, 0)


@pytest.mark.parametrize("where", ["socketpair", "share"])
async def test_a_spare_that_could_not_be_begun_is_tried_again(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there were no descriptors left at that moment."""
    short = itertools.chain([True, True], itertools.repeat(False))
    holder: Any = children if where == "socketpair" else BufferPool
    work = getattr(holder, where)

    def scarce(*args: Any) -> Any:
        if next(short):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return work(*args)

    async with loaded(STUB) as (_, slot):
        first = slot.pid
        monkeypatch.setattr(holder, where, scarce)
        os.kill(first or 0, signal.SIGKILL)
        await until(partial(another, slot, first))


async def test_a_spare_is_shown_beside_its_model() -> None:
    """In `model.info` and in the tree, once it is ready; not while there is none."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", STUB)
        await until(lambda: model.info.spare_pid is not None)
        first = model.info.spare_pid
        assert f"process {model.info.pid}, spare {first}, " in str(runtime.tree())
        os.kill(first or 0, signal.SIGKILL)
        await until(lambda: model.info.spare_pid != first)
        assert f"spare {first}" not in str(runtime.tree())


async def test_one_that_has_just_died_is_not_begun_with() -> None:
    """Both at the same moment: the weights are loaded as without one."""
    async with loaded(STUB) as (model, slot):
        pid, first = model.info.pid, slot.pid
        for one in (first, pid):
            os.kill(one or 0, signal.SIGKILL)
        await until(partial(back, model, pid))
        assert model.info.pid != first


async def test_weights_of_a_file_that_has_changed_are_not_used(models: Path, tmp_path: Path) -> None:
    """They are those of another model."""
    path = tmp_path / "model.gguf"
    shutil.copy(tiny_gguf("dense", models), path)
    async with loaded(configuration("llama", models) | {"model_path": path}) as (model, slot):
        pid, first = model.info.pid, slot.pid
        os.utime(path, ns=(1, 1))
        os.kill(pid or 0, signal.SIGKILL)
        words = model._board.vocabulary
        await until(partial(back, model, pid))
        assert model.info.pid != first
        assert model._board.vocabulary is not words
        await until(partial(another, slot, first))


async def test_a_model_that_is_unloaded_while_its_spare_gets_ready_leaves_none() -> None:
    """Nor is one begun after that."""
    slow = STUB | {"stub": {"load_seconds": 0.5}}
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", slow)
        slot: Any = model._board.spare
        await until(lambda: slot._child is not None and slot._child.process.pid is not None)
        await model.unload()
        assert slot.pid is None
        await until(lambda: psutil.Process().children() == [])
        slot.fill(None, (), None)
        assert slot._task is None or slot._task.done()


@pytest.mark.parametrize("end", ["close", "unload"])
async def test_nothing_is_left_of_the_spare_of_a_model_that_was_given_up(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is waited for, however long that takes, by whoever ends the rest."""
    drop, ends = spares.SpareSlot._drop, list[int | None]()

    async def slow(slot: spares.SpareSlot, child: children.Child) -> None:
        pid = child.process.pid
        for _ in range(100):
            await asyncio.sleep(0)
        await drop(slot, child)
        ends.append(pid)

    monkeypatch.setattr(spares.SpareSlot, "_drop", slow)
    async with erllama.Runtime() as runtime:
        config = STUB | {"restarts": {"intensity": 0}}
        model = await runtime.load_model("m", config)
        slot: Any = model._board.spare
        await until(lambda: slot.pid is not None)
        spare = slot.pid
        assert model.info.pid is not None
        os.kill(model.info.pid, signal.SIGKILL)
        await until(lambda: model.info.phase == "failed")
        if end == "unload":
            await runtime.unload("m")
            assert ends == [spare]
    assert spare in ends
