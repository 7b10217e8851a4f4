"""Replies of every kind whose engine ends at one operation after the other: each is that of an undisturbed run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import msgspec
import pytest
from helpers.each_operation import Operations
from helpers.runtime import assert_idle, until
from helpers.storm import GUARD_SECONDS, SCHEMA, crashes

import erllama_py as erllama
from erllama_py.testing import Script

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

PROMPT = "once upon a time there was a user who asked for a long story of hers, and then for another one."
GREEDY: dict[str, Any] = {"temperature": 0.0, "seed": 1, "response_tokens": 40, "ignore_eos": True}
HOT: dict[str, Any] = {"temperature": 1.2, "seed": 11, "response_tokens": 40, "ignore_eos": True}
MARKERS = ("<think>", "</think>")
THOUGHT = "<think>well é 😀 hm</think>\n\nyes é<think>more</think> done, x ST, x STILL so x STOP never"
CALL = '<tool_call>\n{"name": "note", "arguments": {"title": "</tool_call> é 😀"}}\n</tool_call>'
NOTE: Any = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
TOOLS: Any = [{"type": "function", "function": {"name": "note", "description": "x", "parameters": NOTE}}]
CONFIG: Any = {
    "backend": "stub", "context_opts": {"n_ctx": 2048, "n_seq_max": 4, "n_batch": 64, "n_ubatch": 32},
    "restarts": {"intensity": 1000, "backoff_max": 0.0},
    "policy": {
        "min_tokens": 8, "boundary_align_tokens": 16, "boundary_trim_tokens": 4, "continued_interval": 16,
    },
}  # fmt: skip
KNOWN_APART = {"stats", "alternatives", "cache_delta", "kept"}  # of a row that was lost its tokens are saved once more


def told(done: erllama.Completion) -> Any:
    """What a completion is compared by; calls have ids of their own."""
    told = [
        {name: value for name, value in msgspec.to_builtins(one).items() if name not in KNOWN_APART}
        for one in done.alternatives or (done,)
    ]
    for one in told:
        one["tool_calls"] = [{**call, "id": ""} for call in one["tool_calls"]]
    return told, done.cache_delta.read, done.stats.seed


async def streamed(begin: Callable[[erllama.Model], erllama.Stream], model: erllama.Model) -> Any:
    """What a stream says, however it comes in pieces, and what its end says."""
    heard: dict[tuple[int, str], Any] = {}
    kinds: dict[int, list[str]] = {}
    prompt = dict[int, int]()
    async with begin(model) as stream:
        async for event in stream:
            if isinstance(event, erllama.Done):
                return told(event.completion), heard, kinds, event.completion.stats
            if isinstance(event, erllama.Progress):
                assert event.done > prompt.get(event.index, 0)
                assert event.index not in kinds
                prompt[event.index] = event.done
                continue
            kind, known = type(event).__name__, kinds.setdefault(event.index, [])
            known += [kind] if known[-1:] != [kind] or "End" in kind else []
            for name in ("text", "token_ids", "logprobs"):
                if (new := getattr(event, name, None)) is not None:
                    place = event.index, f"{kind} {name}"
                    heard[place] = heard[place] + new if place in heard else new
    raise AssertionError("a stream ends with Done")


def stream(**options: Any) -> Callable[[erllama.Model], Awaitable[Any]]:
    return partial(streamed, lambda model: model.stream(PROMPT, **options))


def chat(**options: Any) -> Callable[[erllama.Model], Awaitable[Any]]:
    said: Any = [{"role": "user", "content": "please take a note of it, and of all that follows"}]
    return partial(streamed, lambda model: model.stream_chat(said, seed=1, response_tokens=200, **options))


async def complete(model: erllama.Model) -> Any:
    return told(await model.complete(PROMPT, **GREEDY | {"response_tokens": 70}))


async def session(model: erllama.Model) -> Any:
    async with model.session() as session:
        turns = [told(await session.chat(text, seed=1)) for text in ("hello there my friend of old", "so?")]
        return turns, session.tokens, session.messages


async def scores(model: erllama.Model) -> Any:
    found = await model.score(PROMPT, ["yes", "no", "perhaps not"])
    return found.scores, found.prompt_tokens


# Which request gets which reply is told by its prompt: their order is that of first draws, of which some are lost.
TURNS = {"so?": "two replies é", "friend": "one reply of it"}
KINDS: dict[str, tuple[Callable[[erllama.Model], Awaitable[Any]], tuple[str | dict[str, str], ...]]] = {
    "greedy": (stream(**GREEDY), ()),
    "log-probabilities": (stream(**HOT, logprobs=2, logprobs_after=True, prompt_logprobs=1), ()),
    "alternatives": (stream(**HOT, n=3), ()),
    "a schema": (stream(seed=3, json_schema=SCHEMA, logprobs=1, response_tokens=120), ()),
    "reproducible": (stream(**GREEDY, reproducible=True), ()),
    "without a stream": (complete, ()),
    "thinking": (
        stream(
            seed=1, thinking_markers=MARKERS, stop_sequences=("x STOP", "STILL x"), response_tokens=200,
            thinking_budget_tokens=18,
        ), (THOUGHT,),
    ),
    "calls": (chat(tools=TOOLS), (f"ok {CALL} and {CALL}",)),
    "a session": (session, (TURNS,)),
    "scores": (scores, ()),
}  # fmt: skip


async def run(kind: str, *at: int, lost: bool = False) -> tuple[Any, Operations]:
    """What a call comes to whose engine ends at these operations."""
    call, said = KINDS[kind]
    spent = list[int]()
    with pytest.MonkeyPatch.context() as patch:
        operations = Operations(patch, *at, lost=lost, script=Script(*said, controls=MARKERS if said else ()))
        async with erllama.Runtime(backend_factory=operations.make) as runtime:
            model = await runtime.load_model("m", CONFIG)
            with erllama.metered(spent.append), anyio.fail_after(GUARD_SECONDS):
                found = await call(model)
            await until(lambda: model.queue_depth == 0)
            await asyncio.sleep(0)  # what is charged on the loop has been
            assert_idle(model)
            board = model._board
            assert (board.calls, board.between, model.counters.failed) == ({}, set(), 0)
            # A token that ends a reply, or is the last, is drawn and not decoded.
            assert sum(spent) <= operations.decoded + model.counters.requests
    return found, operations


def without_stats(found: Any) -> Any:
    """What is the same in all lives."""
    return found[:3] if isinstance(found, tuple) and isinstance(found[-1], erllama.Stats) else found


@pytest.mark.parametrize("kind", KINDS)
async def test_a_reply_is_the_same_at_whatever_operation_its_engine_ends(kind: str) -> None:
    """On a thread, and as a process does; and where it ends once more while it comes back."""
    undisturbed, operations = await run(kind)
    count, step, had = operations.count, max(1, operations.count // crashes(12)), 0
    for at in range(1, count, step):
        for lost, again in ((False, ()), (True, ()), (True, (at + 1 + at % 20,))):
            found, ended = await run(kind, at, *again, lost=lost)
            assert without_stats(found) == without_stats(undisturbed), (kind, at, lost, again)
            had += ended.crashes
    assert had
