"""Callers cancelled at each await of what they call: nothing leaks, and the next caller is served."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import pytest
from helpers.checkpoints import Strike, at_each_checkpoint
from helpers.runtime import STUB, drain, engine_threads, stub_runtime, until

import erllama_py as erllama

pytestmark = pytest.mark.anyio


async def struck(strike: Strike, coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run `coroutine` in a task of its own and strike it there."""
    with suppress(asyncio.CancelledError):
        await asyncio.get_running_loop().create_task(strike.coroutine(coroutine))


async def test_a_load_cancelled_anywhere_leaves_nothing() -> None:
    """Loaded or gone: no thread without a model, and the id is free if it is gone."""

    async def scenario(strike: Strike) -> None:
        async with erllama.Runtime() as runtime:
            await struck(strike, runtime.load_model("m", STUB))
            loaded = [info.id for info in runtime.list_models()]
            assert engine_threads() == [f"erllama-{model_id}" for model_id in loaded]
            if not loaded:
                await runtime.load_model("m", STUB)
            assert (await runtime.complete("m", "hello", response_tokens=1, temperature=0.0)).generated

    assert await at_each_checkpoint(scenario) > 0
    assert engine_threads() == []


async def test_an_unload_cancelled_anywhere_still_unloads() -> None:
    """Who asked has gone; the model goes too, and its memory is freed."""

    async def scenario(strike: Strike) -> None:
        async with stub_runtime() as (runtime, model):
            await struck(strike, runtime.unload(model))
            await until(lambda: engine_threads() == [])
            with suppress(erllama.ModelNotLoaded):
                await runtime.unload("m")
            assert (await runtime.load_model("m", STUB)).phase == "idle"

    assert await at_each_checkpoint(scenario) > 0


@pytest.mark.parametrize("how", ["complete", "stream", "chat"])
async def test_a_request_cancelled_anywhere_frees_the_model(how: str) -> None:
    """The queue is empty again, and the next reply is right."""

    async def ask(model: erllama.Model) -> None:
        match how:
            case "complete":
                await model.complete("hello there", response_tokens=5, temperature=0.0)
            case "stream":
                await drain(model.stream("hello there", response_tokens=5, temperature=0.0))
            case _:
                await model.chat([{"role": "user", "content": "hello"}], response_tokens=5, temperature=0.0)

    async def scenario(strike: Strike) -> None:
        async with stub_runtime() as (_, model):
            expected = await model.complete("hello", response_tokens=4, temperature=0.0)
            await struck(strike, ask(model))
            await until(lambda: model.queue_depth == 0)
            again = await model.complete("hello", response_tokens=4, temperature=0.0)
            assert again.reply == expected.reply

    assert await at_each_checkpoint(scenario) > 0


async def test_a_runtime_whose_end_is_cancelled_ends_all_the_same() -> None:
    """Leaving the block closes the tree, whoever is in a hurry."""

    async def body() -> None:
        async with stub_runtime() as (_, model):
            await model.complete("hello", response_tokens=2, temperature=0.0)

    async def scenario(strike: Strike) -> None:
        await struck(strike, body())
        await until(lambda: engine_threads() == [])

    assert await at_each_checkpoint(scenario) > 0


async def test_a_supervise_cancelled_anywhere_leaves_nothing() -> None:
    """Started or not, the name is either in the tree or free."""

    async def scenario(strike: Strike) -> None:
        async with erllama.Runtime() as runtime:
            started: list[int] = []

            async def loop() -> None:
                started.append(1)
                await asyncio.Event().wait()

            await struck(strike, runtime.supervise("loop", loop))
            if "loop" not in str(runtime.tree()):
                await (await runtime.supervise("loop", loop)).stop()

    await at_each_checkpoint(scenario)
