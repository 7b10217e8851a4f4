"""Saving all that a model holds, by `evict`, `unload` and the end of the runtime: also what is still being computed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from helpers.cache import (
    MEMORIES,
    PROMPT,
    TIER,
    Gate,
    Stalling,
    ask,
    cold,
    config,
    model_at,
    runtime_at,
    text,
)
from helpers.crashes import crash
from helpers.runtime import until
from helpers.tiny_gguf import Kind, tiny_gguf
from helpers.watched import Watch

import erllama_py as erllama
from erllama_py.cache.client import CacheClient
from erllama_py.cache.messages import CacheMessage, Save

pytestmark = pytest.mark.anyio

MIB = 1 << 20
# Nothing but the row at a request's end is saved by itself.
FINISH_ONLY = {"boundary_align_tokens": 4096, "continued_interval": 4096}
LONG = 2000  # tokens: four ranges, each in a buffer of a MiB


async def ask_without_buffers(runtime: erllama.Runtime, model: erllama.Model, prompt: str) -> erllama.Completion:
    """A reply of which nothing could be saved."""
    taken = [runtime._buffers.take(MIB) for _ in range(runtime._buffers.budget // MIB)]
    done = await ask(model, prompt)
    assert done.finish_key is None
    del taken
    return done


@pytest.mark.slow
@pytest.mark.parametrize("how", ["evict", "unload", "close"])
async def test_more_is_saved_than_buffers_hold(tmp_path: Path, how: str) -> None:
    """Range by range, each when there is a buffer for it: the caller waits, and all is there."""
    small = {"save_buffer_bytes": MIB}
    async with model_at(tmp_path, policy=FINISH_ONLY, runtime_options=small) as (runtime, model):
        done = await ask_without_buffers(runtime, model, text(LONG))
        if how == "evict":
            await runtime.evict(model)
            assert (await model.explain(text(LONG))).live_tokens == 0
        elif how == "unload":
            await runtime.unload(model)
    async with model_at(tmp_path) as (_, model):
        warm = await ask(model, text(LONG) + done.reply + "!")
    assert warm.cache_delta.read == done.committed_tokens
    assert warm.reply == await cold(text(LONG) + done.reply + "!")


async def test_models_that_save_at_a_time_share_the_buffers(tmp_path: Path) -> None:
    """None of them goes without, though there is one buffer for three."""
    async with runtime_at(tmp_path, save_buffer_bytes=MIB) as runtime:
        models = [
            await runtime.load_model(salt, config(kind="disk", policy=FINISH_ONLY, cache_salt=salt)) for salt in "abc"
        ]
        for model in models:
            await ask_without_buffers(runtime, model, text(LONG))
        await asyncio.gather(*(runtime.evict(model) for model in models))
        assert [(await model.explain(text(LONG))).hit_tokens for model in models] == [LONG] * 3


async def test_an_eviction_whose_caller_leaves_keeps_the_rest_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tier hangs and there is no buffer: after its time the eviction is over, and no idle sequence is lost for it."""
    watch, gate = Watch(monkeypatch), Gate(monkeypatch)
    policy, small = {**FINISH_ONLY, "evict_save_timeout_ms": 20}, {"save_buffer_bytes": MIB}
    async with model_at(tmp_path, policy=policy, runtime_options=small, context_opts={"n_seq_max": 2}) as both:
        runtime, model = both
        await ask(model, PROMPT)
        await gate.reached.wait()  # whose row has the buffer
        other = text(LONG, seed=1)
        await ask(model, other)
        await runtime.evict(model)
        await watch.once(lambda: not watch.states["m"].save_alls)
        assert (await model.explain(other)).live_tokens == LONG
        gate.open()
        await runtime.cache.flush()
        await watch.at_rest()
        assert (await ask(model, other)).cache_hit_kind == "live"


@pytest.mark.slow
@pytest.mark.parametrize(("memory", "tokens"), [("full", 20), ("window", 20), ("recurrent", 0), ("hybrid", 0)])
@pytest.mark.parametrize("how", ["unload", "close"])
async def test_requests_at_work_at_the_end_save_what_they_have(
    tmp_path: Path, memory: str, tokens: int, how: str
) -> None:
    """It gets an error that the model is gone; prompt and reply so far are found after a restart. A recurrent state
    does not survive a decode that is stopped half-way; the row of the prompt's end does."""
    make = Stalling(after=2 + 20)
    async with model_at(tmp_path, memory, policy=FINISH_ONLY, make=make) as (runtime, model):
        asked = asyncio.create_task(ask(model, PROMPT, 300))
        waits = asyncio.create_task(ask(model, "x" * 200))
        await until(make.stalled.is_set)
        if how == "unload":
            await runtime.unload(model)
    gone = erllama.ModelNotLoaded if how == "unload" else erllama.RuntimeClosed
    assert [type(await one) for one in (failure(asked), failure(waits))] == [gone, gone]
    reply = await cold(PROMPT, 100, memory)
    async with model_at(tmp_path, memory) as (_, model):
        warm = await ask(model, PROMPT + reply[:20] + "!")
    assert warm.cache_delta.read == len(PROMPT) + tokens
    assert warm.reply == await cold(PROMPT + reply[:20] + "!", memory=memory)


async def failure(task: asyncio.Task[Any]) -> BaseException | None:
    """What a task ended with."""
    await asyncio.wait({task})
    return task.exception()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "window", "recurrent", "hybrid"])
async def test_a_stream_at_work_at_the_end_leaves_what_it_has(tmp_path: Path, kind: Kind) -> None:
    """The same through llama.cpp, with a reader in the middle of its reply; of a recurrent one at least its prompt."""
    path, prompt = tiny_gguf(kind, tmp_path), [number * 7 % 250 for number in range(150)]
    options: Any = {
        "model_path": path,
        "context_opts": {"n_ctx": 640, "n_seq_max": 1, "n_batch": 128, "n_ubatch": 64, "n_threads": 1},
        "policy": {**FINISH_ONLY, "min_tokens": 32}, "tier": "disk", "tier_srv": "d",
    }  # fmt: skip
    greedy: dict[str, Any] = {"temperature": 0.0, "response_tokens": 450}
    said: list[int] = []
    async with runtime_at(tmp_path / "t") as runtime:
        model = await runtime.load_model("m", options)
        async with model.stream(prompt, **greedy) as events:
            async for event in events:
                said += event.token_ids if isinstance(event, erllama.TextDelta) else []
                if len(said) > 20:
                    break
            await runtime.unload(model)
    async with runtime_at(tmp_path / "t") as runtime:
        model = await runtime.load_model("m", options)
        warm = await model.complete([*prompt, *said, 9], **greedy | {"response_tokens": 4})
    # What it had sampled last was not in its cells.
    assert warm.cache_delta.read >= len(prompt) + (len(said) - 1 if kind in ("dense", "window") else 0)


# --- what was copied out, and not stored -----------------------------------------------------------------------------


async def saved(model: erllama.Model, prompt: str) -> int:
    """Tokens of it that are found."""
    return (await model.explain(prompt)).hit_tokens


@pytest.mark.parametrize("memory", MEMORIES)
async def test_what_a_tier_that_was_stopped_did_not_take_is_saved_again(tmp_path: Path, memory: str) -> None:
    """Rows of the prompt and of the reply: once it runs again, an eviction saves them all."""
    async with model_at(tmp_path, memory) as (runtime, model):
        spec, _ = runtime._tiers._held[TIER]
        assert isinstance(spec, erllama.DiskTier)
        await runtime.stop_tier(TIER)
        done = await ask(model, PROMPT)
        await runtime.cache.flush()
        assert (await runtime.cache.counters())["saves.dropped.no_tier"] > 1
        await runtime.start_tier(TIER, spec)
        await runtime.evict(model)
        assert await saved(model, PROMPT + done.reply[:11]) == done.committed_tokens


@pytest.mark.slow
@pytest.mark.parametrize("how", ["it fails", f"tier:{TIER}"])
async def test_rows_pending_in_a_tier_that_fails_are_saved_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Or whose actor crashes: no row is stored; the end of the runtime saves them all."""
    async with model_at(tmp_path) as (runtime, model):
        gate = Gate(monkeypatch)
        done = await ask(model, PROMPT)
        await gate.reached.wait()
        gate.error = erllama.TierFailed(TIER, "not today")
        if how != "it fails":
            await crash(runtime, how)
        gate.open()
        await runtime.cache.flush()
        gate.error = None
        assert await saved(model, PROMPT) == 0
    async with model_at(tmp_path) as (_, model):
        assert await saved(model, PROMPT + done.reply[:11]) == done.committed_tokens


async def test_rows_that_a_cache_that_is_down_did_not_get_are_saved_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is free while it restarts, and a cast goes nowhere."""
    tell, down = CacheClient.tell, True

    def told(self: CacheClient, message: CacheMessage) -> bool:
        return not (down and isinstance(message, Save)) and tell(self, message)

    monkeypatch.setattr(CacheClient, "tell", told)
    async with model_at(tmp_path) as (runtime, model):
        done = await ask(model, PROMPT)
        assert await runtime.cache.rows() == []
        down = False
        await runtime.evict(model)
        assert await saved(model, PROMPT + done.reply[:11]) == done.committed_tokens
