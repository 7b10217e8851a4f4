"""Every public call, cancelled at every point: nothing leaks, and no coroutine is left unawaited."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from helpers.checkpoints import MOST, Strike
from helpers.public_calls import MESSAGES, cache_calls, model_calls
from helpers.runtime import STUB, stub_runtime, until

import erllama_py as erllama

pytestmark = pytest.mark.anyio

Call = Callable[[], Coroutine[Any, Any, object]]
MODEL = (
    "chat", "complete", "prefill_only", "score", "choose", "evict", "tokenize", "detokenize", "apply_chat_template",
    "explain",
)  # fmt: skip
CACHE = ("counters", "rows", "tiers", "evict_bytes", "gc", "flush", "put", "find", "read")
RUNTIME = ("load", "tier", "supervise", "session", "stream")


async def run(call: Callable[[], object]) -> None:
    """One call; what is refused is no fault here."""
    with suppress(erllama.ErllamaError):
        answer = call()
        if isinstance(answer, Awaitable):
            await answer


async def cancelled_everywhere(call: Callable[[], object]) -> None:
    """Cancel `call` at its first checkpoint, its second … until it gets through."""
    before = asyncio.all_tasks()
    for at in range(1, MOST):
        strike = Strike(at)
        task = asyncio.create_task(strike.coroutine(run(call)))
        await asyncio.wait((task,))
        assert task.cancelled() or task.exception() is None
        del task
        await until(lambda: asyncio.all_tasks() <= before)  # a stop that was begun goes on to its end
        if not strike.struck:
            break
    else:
        raise AssertionError(f"still struck at checkpoint {MOST}")
    gc.collect()  # a coroutine that was never awaited complains when it is collected, and fails the test


def runtime_calls(runtime: erllama.Runtime, model: erllama.Model, folder: Path) -> dict[str, Call]:
    """What begins and ends something."""

    async def load() -> None:
        await (await runtime.load_model("n", STUB)).unload()

    async def tier() -> None:
        await runtime.start_tier("d", erllama.DiskTier(str(folder / "d")))
        await runtime.stop_tier("d")

    async def supervise() -> None:
        await (await runtime.supervise("loop", anyio.sleep_forever)).stop()

    async def session() -> None:
        async with model.session() as one:
            await one.chat("hello", response_tokens=2)

    async def stream() -> None:
        async with model.stream_chat(MESSAGES, response_tokens=2) as events:
            async for _ in events:
                pass

    return {"load": load, "tier": tier, "supervise": supervise, "session": session, "stream": stream}


@pytest.mark.parametrize("name", MODEL)
async def test_a_call_of_a_model_can_be_cancelled_anywhere(name: str) -> None:
    """And the model is none the worse for it."""
    async with stub_runtime() as (_, model):
        await cancelled_everywhere(model_calls(model)[name])
        assert (await model.complete("hello", response_tokens=1, temperature=0.0)).generated


@pytest.mark.parametrize("name", CACHE)
async def test_a_call_of_the_cache_can_be_cancelled_anywhere(name: str) -> None:
    """Also one that is cancelled before the cache has looked at it."""
    async with stub_runtime() as (runtime, _):
        await cancelled_everywhere(cache_calls(runtime.cache)[name])
        assert await runtime.cache.tiers()


@pytest.mark.parametrize("name", RUNTIME)
async def test_a_call_that_begins_and_ends_something_can_be_cancelled_anywhere(name: str, tmp_path: Path) -> None:
    """What it had begun is taken back, or goes on to its end; the same can be done again."""
    async with stub_runtime() as (runtime, model):
        calls = runtime_calls(runtime, model, tmp_path)

        async def again() -> None:
            with suppress(erllama.ErllamaError):
                await runtime.unload("n")
            with suppress(erllama.ErllamaError):
                await runtime.stop_tier("d")
            await calls[name]()

        await cancelled_everywhere(again)
        assert (await model.complete("hello", response_tokens=1, temperature=0.0)).generated


async def test_a_tier_whose_stop_was_cancelled_ends_and_can_be_started_again(tmp_path: Path) -> None:
    """Its name is free when it is gone, though nothing has waited for that."""
    tier = erllama.DiskTier(str(tmp_path / "d"))
    async with erllama.Runtime(tiers={"d": tier}) as runtime:
        stop = asyncio.create_task(runtime.stop_tier("d"))
        await asyncio.sleep(0)
        stop.cancel()
        await asyncio.wait({stop})
        assert stop.cancelled()
        await until(lambda: "tier:d" not in str(runtime.tree()))
        with pytest.raises(erllama.TierNotFound):
            await runtime.stop_tier("d")
        await runtime.start_tier("d", tier)
