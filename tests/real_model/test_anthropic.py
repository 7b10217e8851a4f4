"""Anthropic's API on a real model: what turns take."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.claude import client, computed, total

import erllama_py as erllama
from erllama_py.serve import create_app
from erllama_py.serve.models import fetch

pytestmark = [pytest.mark.anyio, pytest.mark.real_model]

CONFIG: erllama.ModelConfigDict = {"context_opts": {"n_ctx": 4096, "n_threads": 2, "n_seq_max": 2}}
# The tokens that end a reply are written at once where a grammar leaves no choice, and were never computed.
UNCOMPUTED = 8
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 30}},
        "required": ["city"],
    },
}

# A call that is cut by `max_tokens` comes back as none, and what was said of it is computed by nobody.
ONE_CALL = {"type": "any", "disable_parallel_tool_use": True}


@pytest.mark.parametrize("streams", [False, True])
async def test_a_turn_computes_its_own_tokens_only(streams: bool) -> None:
    """With tools, thinking and a system prompt, whose marks move as clients move them; the next turn too."""
    thinks: Any = {"thinking_markers": ("<think>", "</think>"), "thinking_signing_key": "k"}
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {"model_path": fetch("smollm2"), **CONFIG, **thinks})
        async with client(create_app(runtime)) as claude:
            system = [{"type": "text", "text": "Use tools. " * 60, "cache_control": {"type": "ephemeral"}}]
            ask: Any = {
                "model": "m", "system": system, "tools": [WEATHER], "max_tokens": 100,
                "thinking": {"type": "enabled", "budget_tokens": 1024},
            }  # fmt: skip
            turns: list[Any] = [{"role": "user", "content": "How is the weather in Ghent?"}]
            before = 0
            for choice in (ONE_CALL, {"type": "none"}, {"type": "none"}):
                given = ask | {"messages": turns, "tool_choice": choice}
                if streams:
                    async with claude.messages.stream(**given) as stream:
                        message: Any = await stream.get_final_message()
                else:
                    message = await claude.messages.create(**given)
                usage = message.usage
                if before:
                    assert computed(usage) <= total(usage) - before + UNCOMPUTED
                before = total(usage) + usage.output_tokens
                turns.append(message.to_param())
                calls = [block for block in message.content if block.type == "tool_use"]
                results = [{"type": "tool_result", "tool_use_id": call.id, "content": "12 °C"} for call in calls]
                said = [{"type": "text", "text": "And then?", "cache_control": {"type": "ephemeral"}}]
                turns.append({"role": "user", "content": results or said})
            assert before > 200
            assert (await model.explain([{"role": "user", "content": "x"}])).turn is not None
