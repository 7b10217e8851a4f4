"""The end of a model saves what is not saved yet, however often it is asked for and whoever does not wait for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import anyio
import pytest
from helpers.cache import PROMPT, Gate, ask, model_at, row_files

import erllama_py as erllama

pytestmark = pytest.mark.anyio

# Nothing is saved before the end of a request.
FINISH_ONLY = {"boundary_align_tokens": 4096, "continued_interval": 4096}


async def unsaved(runtime: erllama.Runtime, model: erllama.Model) -> erllama.Completion:
    """A reply whose save has found no buffer: only the model's cells hold it."""
    taken = runtime._buffers.take(runtime._buffers.budget)
    done = await ask(model, PROMPT)
    del taken
    assert await runtime.cache.rows() == []
    return done


async def found_again(root: Path, first: erllama.Completion) -> None:
    """The next process has all of it."""
    async with model_at(root) as (_, model):
        warm = await ask(model, [*PROMPT.encode(), *first.generated, *b" and then?"])
    assert warm.cache_delta.read == first.committed_tokens


@pytest.mark.parametrize("second", ["unload", "close"])
async def test_a_second_end_waits_for_the_save_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    """Another unload, or the end of the runtime, does not stop the model under the hands of the first."""
    gate = Gate(monkeypatch)
    async with model_at(tmp_path, policy=FINISH_ONLY) as (runtime, model):
        first = await unsaved(runtime, model)
        ends = [asyncio.create_task(runtime.unload(model))]
        await gate.reached.wait()
        if second == "unload":
            ends.append(asyncio.create_task(runtime.unload(model)))
            await asyncio.sleep(0)
            gate.open()
            await asyncio.gather(*ends)
            with pytest.raises(erllama.ModelNotLoaded):
                await runtime.unload(model)
        else:
            asyncio.get_running_loop().call_soon(gate.open)
    await asyncio.gather(*ends)
    await found_again(tmp_path, first)


async def test_an_unload_whose_caller_is_cancelled_comes_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is being saved is not thrown away, and the id is free afterwards."""
    gate = Gate(monkeypatch)
    async with model_at(tmp_path, policy=FINISH_ONLY) as (runtime, model):
        first = await unsaved(runtime, model)
        unloading = asyncio.create_task(runtime.unload(model))
        await gate.reached.wait()
        unloading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await unloading
        with pytest.raises(erllama.ModelNotLoaded):
            await ask(model, PROMPT)
        gate.open()
        await runtime.unload(model)  # waits for the same end
        assert runtime.list_models() == []
    await found_again(tmp_path, first)


@pytest.mark.parametrize("how", ["scope", "task"])
async def test_a_runtime_that_is_cancelled_saves_all_the_same(tmp_path: Path, how: str) -> None:
    """By a cancel scope around it, which cancels every await within, or by the cancellation of its task."""
    ready, seen = anyio.Event(), []

    async def application() -> None:
        async with model_at(tmp_path, policy=FINISH_ONLY) as (runtime, model):
            seen.append(await unsaved(runtime, model))
            ready.set()
            await anyio.sleep_forever()

    if how == "scope":
        async with anyio.create_task_group() as group:
            group.start_soon(application)
            await ready.wait()
            group.cancel_scope.cancel()
    else:
        task = asyncio.create_task(application())
        await ready.wait()
        task.cancel()
        await asyncio.wait([task])
    assert len(row_files(tmp_path)) == 1
    await found_again(tmp_path, seen[0])
