"""The runtime has threads of its own: an application that uses up the default ones holds nothing up here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from helpers.runtime import STUB, until

import erllama_py as erllama
from erllama_py.handle.port import INLINE_LENGTH
from erllama_py.scheduler.messages import FaultPlace

pytestmark = pytest.mark.anyio

LONG = "x" * (INLINE_LENGTH + 1)
MESSAGES = [{"role": "user", "content": "hello"}]
FAULTS: tuple[FaultPlace, ...] = ("actor", "thread", "decode")
GUARD_SECONDS = 20


@asynccontextmanager
async def exhausted() -> AsyncIterator[None]:
    """A block in which anyio's default threads, and the loop's default executor, have no thread left."""
    limiter, go_on = anyio.to_thread.current_default_thread_limiter(), threading.Event()
    executor = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(executor)
    others = [asyncio.ensure_future(asyncio.to_thread(go_on.wait))]
    before, limiter.total_tokens = limiter.total_tokens, 1
    others.append(asyncio.ensure_future(anyio.to_thread.run_sync(go_on.wait)))
    await until(lambda: limiter.available_tokens == 0)
    try:
        with anyio.fail_after(GUARD_SECONDS):
            yield
    finally:
        go_on.set()
        await asyncio.gather(*others)
        limiter.total_tokens = before


async def crash(model: erllama.Model, where: FaultPlace) -> None:
    """Let a model crash while it has a request."""
    async with model.stream(
        "hello", response_tokens=10_000, seed=212, on_crash="fail"
    ) as events:  # a reply of 599 tokens
        model.inject_fault(where)
        async for _ in events:
            pass


@pytest.mark.slow
async def test_everything_works_while_the_default_threads_are_used_up(tmp_path: Path) -> None:
    """Loading, all kinds of requests, a crash, tiers, the pressure monitor, unloading and the end."""
    pressure = erllama.PressureOpts(source="system", interval_ms=100)
    stub: erllama.ModelConfigDict = {**STUB, "context_opts": {"n_ctx": 20_000}}
    async with (
        exhausted(),
        erllama.Runtime(tiers={"d": erllama.DiskTier(str(tmp_path / "d"))}, pressure=pressure) as runtime,
    ):
        model = await runtime.load_model("m", {**stub, "tier": "disk", "tier_srv": "d"})
        assert (await model.complete(LONG, response_tokens=1, temperature=0.0)).generated
        assert (await model.chat(MESSAGES, response_tokens=1, temperature=0.0)).generated
        async with model.stream(LONG, response_tokens=1, temperature=0.0) as events:
            assert "".join([text async for text in events.text])
        async with model.session() as session:
            for _ in range(2):
                assert (await session.chat("hello", response_tokens=1, temperature=0.0)).generated
        assert await model.detokenize(await model.tokenize(LONG))
        assert await model.apply_chat_template(MESSAGES)
        await model.explain(LONG)
        for where in FAULTS:
            with pytest.raises(erllama.ModelCrashed):
                await crash(model, where)
            assert (await model.chat(MESSAGES, response_tokens=1, temperature=0.0)).generated
        await model.evict()
        await runtime.cache.flush()
        [row, *_] = [row for row in await runtime.cache.rows() if row.tier == "d"]
        assert (await runtime.cache.read(row.key, "d")).payload
        await runtime.load_model("n", stub)
        await model.unload()
        await runtime.stop_tier("d")
        await runtime.start_tier("d", erllama.DiskTier(str(tmp_path / "d")))


@pytest.mark.slow
async def test_more_synchronous_callers_than_default_threads_survive_a_crash() -> None:
    """Each holds a default thread while it waits for its model, and the model comes back all the same."""
    began, answers = list[int](), list[int]()
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {**STUB, "stub": {"seconds_per_token": 0.001}})

        async def chat() -> None:
            began.append(1)
            while True:
                try:
                    done = await model.chat(MESSAGES, response_tokens=20)
                except erllama.ModelCrashed:
                    continue
                answers.append(len(done.generated))
                return

        with anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as callers:
                for _ in range(120):
                    callers.start_soon(anyio.to_thread.run_sync, anyio.from_thread.run, chat)
                await until(lambda: model.phase == "generating" and len(began) >= 40)
                model.inject_fault("thread")
        assert len(answers) == 120
        assert model.info.restarts == 1
