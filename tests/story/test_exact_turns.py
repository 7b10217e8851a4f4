"""Exact turns: a client without state sends back what it got, and nothing is computed twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers.scripted import scripted

import erllama_py as erllama

pytestmark = pytest.mark.anyio

SHORT: dict[str, Any] = {"response_tokens": 200, "temperature": 0.0}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(done: erllama.Completion) -> dict[str, Any]:
    """What a client sends back: a text, and nothing else."""
    return {"role": "assistant", "content": f" {done.reply}\n"}


async def test_what_a_client_sends_back_is_recognised() -> None:
    """The second prompt begins with every token of the first and its reply; only what is new is computed."""
    async with scripted("one", "two", "three") as (runtime, model, script):
        chat = [user("a")]
        first = await model.chat(chat, **SHORT)
        chat += [said(first), user("b")]
        second = await model.chat(chat, **SHORT)
        assert script.prompts[1].startswith(script.prompts[0] + "one")
        assert second.stats.prefill_tokens == second.prompt_tokens - first.committed_tokens
        await runtime.cache.flush()
        counters = await runtime.cache.counters()
        assert (counters["turns.found"], counters["saves.turn"]) == (1, 2)
        assert json.dumps([row.reason for row in await runtime.cache.rows()]).count("turn") == 2
