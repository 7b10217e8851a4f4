"""Calls of every kind while their model crashes at random: each comes to what it comes to undisturbed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from helpers.runtime import STUB, until
from helpers.tiny_gguf import tiny_gguf

import erllama_py as erllama
from erllama_py.scheduler.messages import FaultPlace

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.either_loop]

SCHEMA = {"type": "object", "properties": {"a": {"enum": ["so", "or so", "not so"]}}, "required": ["a"]}
GREEDY: dict[str, Any] = {"temperature": 0.0, "response_tokens": 60, "ignore_eos": True}
HOT: dict[str, Any] = {"temperature": 1.2, "seed": 11, "response_tokens": 60, "ignore_eos": True}
PROMPT = [65 + number % 20 for number in range(200)]
FAULTS: tuple[FaultPlace, ...] = ("actor", "thread", "decode")
RESTARTS = {"intensity": 1000, "backoff_max": 0.01}


async def _streamed(model: erllama.Model, **options: Any) -> object:
    events = []
    async with model.stream(PROMPT, **options) as stream:
        events = [event async for event in stream if not isinstance(event, erllama.Progress)]
    last = events[-1]
    assert isinstance(last, erllama.Done)
    tokens = [token for event in events[:-1] for token in getattr(event, "token_ids", ())]
    assert tokens == last.completion.generated
    assert "".join(getattr(event, "text", "") for event in events[:-1]) == last.completion.reply
    return tokens, last.completion.logprobs


async def _replies(model: erllama.Model, **options: Any) -> object:
    done = await model.complete(PROMPT, **options)
    return [one.generated for one in done.alternatives or (done,)]


async def _session(model: erllama.Model) -> object:
    async with model.session() as session:
        await session.complete(PROMPT[:50], **GREEDY)
        await session.complete("and then", **GREEDY)
        return session.tokens


async def _scores(model: erllama.Model) -> object:
    found = await model.score(PROMPT, ["yes", "no", "perhaps not"])
    return [round(one.logprob, 3) for one in found.scores]


async def _embeds(model: erllama.Model) -> object:
    return [round(float(number), 3) for number in (await model.embed(["a text", "another"])).vectors.ravel()]


CALLS: dict[str, Callable[[erllama.Model], Awaitable[object]]] = {
    "stream": lambda model: _streamed(model, **GREEDY),
    "hot stream": lambda model: _streamed(model, **HOT),
    "logprobs": lambda model: _streamed(model, logprobs=2, **HOT),
    "complete": lambda model: _replies(model, **HOT),
    "alternatives": lambda model: _replies(model, n=3, **HOT),
    "reproducible": lambda model: _replies(model, reproducible=True, **GREEDY),
    "reproducible stream": lambda model: _streamed(model, reproducible=True, **HOT),
    "schema": lambda model: _replies(model, json_schema=SCHEMA, seed=5),
    "penalties": lambda model: _replies(model, repetition_penalty=1.3, dry_multiplier=0.8, **HOT),
    "session": _session,
    "scores": _scores,
    "embeddings": _embeds,
}


async def _under_fire(model: erllama.Model, call: Callable[[erllama.Model], Awaitable[object]], seed: int) -> object:
    """What a call comes to while its model crashes after every few tokens, thrice."""
    pick, asking = random.Random(seed), asyncio.ensure_future(call(model))
    for _ in range(3):
        restarts, after = model.info.restarts, model.counters.generated_tokens + pick.randrange(1, 25)
        await until(partial(_has_come, model, asking, after))
        if asking.done():
            break
        model.inject_fault(pick.choice(FAULTS[:2]))
        await until(partial(_has_crashed, model, restarts))
    with anyio.fail_after(60):
        return await asking


def _has_come(model: erllama.Model, asking: asyncio.Future[object], after: int) -> bool:
    """So far, and it is up."""
    return asking.done() or (model.counters.generated_tokens >= after and model.phase != "restarting")


def _has_crashed(model: erllama.Model, restarts: int) -> bool:
    return model.info.restarts > restarts


@pytest.mark.parametrize("backend", ["stub", "dense"])
@pytest.mark.parametrize("name", CALLS)
async def test_each_call_comes_to_what_it_comes_to_undisturbed(name: str, backend: Any, tmp_path: Path) -> None:
    """One at a time, so that nothing else changes what is computed."""
    config: Any = {**STUB, "restarts": RESTARTS, "context_opts": {"n_ctx": 2048, "n_seq_max": 4, "n_threads": 1}}
    if backend == "stub":
        config["stub"] = {"seconds_per_token": 0.0005}
    else:
        config |= {"backend": "llama", "model_path": tiny_gguf("dense", tmp_path)}
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", config)
        expected = await CALLS[name](model)
    for seed in range(2):
        async with erllama.Runtime() as runtime:
            model = await runtime.load_model("m", config)
            assert await _under_fire(model, CALLS[name], seed) == expected
            assert model.counters.failed == 0
            assert (model._board.calls, model._board.between) == ({}, set())
