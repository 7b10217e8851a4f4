"""Looking at a reply changes nothing of it: what only tells, watches or waits changes no token, decode or saved row."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from helpers.runtime import until
from helpers.tiny_gguf import tiny_gguf
from helpers.traces import traced

import erllama_py as erllama

pytestmark = [pytest.mark.anyio, pytest.mark.either_loop]

PROMPT = [65 + number % 20 for number in range(150)]
SCHEMA = {
    "type": "object", "properties": {"the_kind_of_it": {"enum": ["so and so", "or so", "not so"]},
    "its_name": {"type": "string", "maxLength": 8}}, "required": ["the_kind_of_it", "its_name"],
}  # fmt: skip
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 6}}, "required": ["city"]}}}  # fmt: skip
ASKED: dict[str, dict[str, Any]] = {
    "plain": {},
    "greedy": {"temperature": 0.0},
    "a schema": {"json_schema": SCHEMA},
    "a greedy schema": {"json_schema": SCHEMA, "temperature": 0.0},
    "a schema, mirostat": {"json_schema": SCHEMA, "mirostat": 2},
    "a schema, adaptive-p": {"json_schema": SCHEMA, "adaptive_p": 0.3},
    "a schema, XTC": {"json_schema": SCHEMA, "xtc_probability": 0.5, "xtc_threshold": 0.02, "min_p": 0.0},
    "a schema, penalties": {"json_schema": SCHEMA, "repetition_penalty": 1.3, "dry_multiplier": 0.8},
    "a regex": {"regex": "[a-z]{2} and then (this|that) and [0-9]{3}"},
    "a choice": {"choice": ("one way to say it", "another way to say it")},
    "first tokens": {"min_tokens": 8},
    "stops": {"stop_sequences": ("e",)},
    "reproducible": {"json_schema": SCHEMA, "reproducible": True},
}
LOOKS: dict[str, dict[str, Any]] = {
    "logprobs": {"logprobs": 0},
    "more logprobs": {"logprobs": 5, "logprobs_after": True},
    "on_crash": {"on_crash": "fail"},
    "priority": {"priority": 7},
    "background": {"priority": -1000},
    "deadline": {"deadline": 3600.0},
    "queue_wait": {"queue_wait": True},
}
COUNTED = (
    "decodes", "decoded_tokens", "computed_tokens", "generated_tokens", "reused_tokens", "saved_rows", "saved_bytes",
    "skipped_rows", "parks",
)  # fmt: skip
WAYS = [("stub", "thread"), ("llama", "thread"), ("stub", "process"), ("llama", "process")]

Ask = Callable[[erllama.Model, dict[str, Any]], Awaitable[erllama.Completion]]


async def completed(model: erllama.Model, options: dict[str, Any]) -> erllama.Completion:
    return await model.complete(PROMPT, **options)


async def streamed(model: erllama.Model, options: dict[str, Any]) -> erllama.Completion:
    """With all its events: progress, text and the end."""
    async with model.stream(PROMPT, **options) as stream:
        events = [event async for event in stream]
    last = events[-1]
    assert isinstance(last, erllama.Done)
    told = [token for event in events[:-1] for token in getattr(event, "token_ids", ())]
    assert told == last.completion.generated[: len(told)]
    return last.completion


async def metered(model: erllama.Model, options: dict[str, Any]) -> erllama.Completion:
    spent: list[int] = []
    with erllama.metered(spent.append):
        done = await completed(model, options)
    await until(lambda: sum(spent) == done.stats.prefill_tokens + len(done.generated))
    return done


async def explained(model: erllama.Model, options: dict[str, Any]) -> erllama.Completion:
    """Before and after."""
    salt = {"cache_salt": options["cache_salt"]}
    await model.explain(PROMPT, **salt)
    done = await completed(model, options)
    await model.explain(PROMPT, **salt)
    return done


async def spanned(model: erllama.Model, options: dict[str, Any]) -> erllama.Completion:
    """Where an application has the SDK of OpenTelemetry set up."""
    with traced() as spans:
        done = await completed(model, options)
        assert len(spans.all()) > 0
    return done


async def watched(model: erllama.Model, options: dict[str, Any]) -> erllama.Completion:
    """By all that operators look at, again and again while it runs."""
    found = list[erllama.Completion]()

    async def ask() -> None:
        found.append(await completed(model, options))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        while not found:
            assert (model.counters.failed, len(repr(model)) > 0, model.queue_depth <= 1) == (0, True, True)
            assert len(model.sequences) <= 2
            assert model.info.restarts == 0
            await anyio.lowlevel.checkpoint()
    return found[0]


LOOKERS: dict[str, Ask] = {
    "a stream": streamed, "a meter": metered, "explain": explained, "spans": spanned, "operators": watched,
}  # fmt: skip


@asynccontextmanager
async def loaded(backend: str, isolation: str, folder: Path) -> AsyncIterator[erllama.Model]:
    """A model of a runtime of its own, which computes one sequence at a time."""
    sizes = {"n_ctx": 1024, "n_batch": 128, "n_ubatch": 64, "n_threads": 1, "n_seq_max": 1}
    policy = {"min_tokens": 32, "boundary_align_tokens": 32, "boundary_trim_tokens": 0}
    config: Any = {"backend": backend, "isolation": isolation, "context_opts": sizes, "policy": policy, "probe": False}
    config["scheduler"] = {"prefill_chunk_size": 64}  # else it is time that decides how many tokens go together
    if backend == "llama":
        config |= {"model_path": tiny_gguf("dense", folder)}
    else:
        del config["probe"]
    async with erllama.Runtime() as runtime:
        yield await runtime.load_model("m", config)


def counted(model: erllama.Model) -> dict[str, int]:
    return {name: getattr(model.counters, name) for name in COUNTED}


async def world(model: erllama.Model, salt: str, ask: Ask, options: dict[str, Any]) -> tuple[Any, dict[str, int]]:
    """What a reply is that nothing was saved for, and what it took."""
    before = counted(model)
    done = await ask(model, {"seed": 11, "response_tokens": 60, "cache_salt": salt} | options)
    reply = done.generated, done.reply, done.finish_reason, done.stop_sequence, done.thinking, done.tool_calls
    return reply, {name: count - before[name] for name, count in counted(model).items()}


@pytest.mark.parametrize(("backend", "isolation"), WAYS)
async def test_what_only_looks_or_waits_changes_no_token_no_decode_and_no_row(
    backend: str, isolation: str, tmp_path: Path
) -> None:
    """Of each kind of reply, with each of them against without."""
    async with loaded(backend, isolation, tmp_path) as model:
        for kind, options in ASKED.items():
            expected, work = await world(model, f"{kind}, alone", completed, options)
            for name, ask in LOOKERS.items():
                assert await world(model, f"{kind}, {name}", ask, options) == (expected, work), (kind, name)
            for name, look in LOOKS.items():
                if "deadline" in look and options.get("reproducible"):
                    continue
                found, took = await world(model, f"{kind}, {name}", completed, options | look)
                assert found == expected, (kind, name)
                tail = took["decodes"] - work["decodes"] if "logprobs" in look else 0  # see `engine.reply_scores`
                assert 0 <= tail <= (8 if options.get("reproducible") else 1), (kind, name)
                assert tail or took == work, (kind, name)


@pytest.mark.parametrize("backend", ["stub", "llama"])
@pytest.mark.parametrize("kind", ["a schema", "a schema, mirostat", "a schema, XTC", "reproducible"])
async def test_a_reply_that_is_told_of_is_the_same_after_a_crash_of_its_process(
    backend: str, kind: str, tmp_path: Path
) -> None:
    """It uses the random numbers that a reply uses that nobody looks at, and that nothing disturbs."""
    options = {"seed": 3, "response_tokens": 60} | ASKED[kind]
    async with loaded(backend, "process", tmp_path) as model:
        expected = await completed(model, options | {"cache_salt": "undisturbed"})
        events = list[erllama.Event]()
        async with model.stream(PROMPT, logprobs=1, cache_salt="crashed", **options) as stream:
            async for event in stream:
                events.append(event)
                if isinstance(event, erllama.TextDelta) and model.info.restarts == 0 and model.info.pid is not None:
                    os.kill(model.info.pid, signal.SIGKILL)
                    await until(lambda: model.info.restarts == 1)
    last = events[-1]
    assert isinstance(last, erllama.Done)
    done = last.completion
    assert (done.generated, done.reply) == (expected.generated, expected.reply)
    assert [one.token_id for one in done.logprobs or ()] == done.generated
    assert "".join(event.text for event in events if isinstance(event, erllama.TextDelta)) == done.reply
