"""One conversation that goes from one API to another: each recognises what the model has said in the others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers.scripted import Script
from helpers.served import Served, served
from helpers.tool_replies import CONTROLS, template_of

import erllama_py as erllama

SCHEMA = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}
ABOUT: dict[str, Any] = {"name": "weather", "description": "The weather in a town.", "parameters": SCHEMA}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"town": "Oslo"}}\n</tool_call>'
QUESTION = "How is the weather in Oslo?"
NESTED = [{"type": "function", "function": ABOUT}]


async def asked(at: Served, path: str, body: dict[str, Any]) -> Any:
    """The answer to a request for the model."""
    answer = await at.client.post(path, json={"model": "tiny", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def chat(at: Served, call_id: str) -> int:
    """Tokens of the cache in the next turn, by OpenAI's chats."""
    call = {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": '{"town": "Oslo"}'}}
    messages = [
        {"role": "user", "content": QUESTION}, {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call_id, "content": "rain"},
    ]  # fmt: skip
    body = {"messages": messages, "tools": NESTED, "max_tokens": 4, "tool_choice": "none"}
    told = await asked(at, "/v1/chat/completions", body)
    return int(told["usage"]["prompt_tokens_details"]["cached_tokens"])


async def responses(at: Served, call_id: str) -> int:
    """By Open Responses."""
    items = [
        {"role": "user", "content": QUESTION},
        {"type": "function_call", "call_id": call_id, "name": "weather", "arguments": '{"town":"Oslo"}'},
        {"type": "function_call_output", "call_id": call_id, "output": "rain"},
    ]
    body = {"input": items, "tools": [{"type": "function", **ABOUT}], "max_output_tokens": 4, "tool_choice": "none"}
    return int((await asked(at, "/v1/responses", body))["usage"]["input_tokens_details"]["cached_tokens"])


async def messages(at: Served, call_id: str) -> int:
    """By Anthropic's messages."""
    call = {"type": "tool_use", "id": call_id, "name": "weather", "input": {"town": "Oslo"}}
    turns = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call_id, "content": "rain"}]},
    ]  # fmt: skip
    tool = {"name": "weather", "description": ABOUT["description"], "input_schema": SCHEMA}
    body = {"messages": turns, "tools": [tool], "max_tokens": 4, "tool_choice": {"type": "none"}}
    return int((await asked(at, "/v1/messages", body))["usage"]["cache_read_input_tokens"])


async def ollama(at: Served, call_id: str) -> int:
    """By Ollama's chats, whose clients know no ids."""
    call = {"function": {"name": "weather", "arguments": {"town": "Oslo"}}}
    turns = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_name": "weather", "content": "rain"},
    ]  # fmt: skip
    body = {"messages": turns, "tools": NESTED, "options": {"num_predict": 4}, "stream": False}
    return int((await asked(at, "/api/chat", body))["prompt_eval_cached_count"])


@pytest.mark.anyio
@pytest.mark.parametrize("then", [chat, responses, messages, ollama], ids=lambda one: str(one.__name__))
async def test_a_call_is_recognised_by_each_api(then: Any) -> None:
    """Wherever the conversation goes on, what precedes the result is not computed again."""
    script = Script(CALL, "so", controls=CONTROLS.get("hermes", ()), template=template_of("hermes"))
    async with served(script=script) as at:
        body = {"messages": [{"role": "user", "content": QUESTION}], "tools": NESTED, "temperature": 0}
        first = await asked(at, "/v1/chat/completions", body)
        [call] = first["choices"][0]["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"town": "Oslo"}
        assert await then(at, call["id"]) >= first["usage"]["total_tokens"] - 2


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("first", [chat, responses, messages], ids=lambda one: str(one.__name__))
@pytest.mark.parametrize("then", [chat, responses, messages], ids=lambda one: str(one.__name__))
async def test_results_are_the_same_to_each_api(first: Any, then: Any) -> None:
    """So what follows them is recognised too: all name the tool, as there are templates that show it."""
    script = Script("so", controls=CONTROLS.get("hermes", ()), template=template_of("hermes"))
    seen = list[Any]()
    async with served(script=script) as at:
        stream_chat, chat_ = erllama.Model.stream_chat, erllama.Model.chat
        with pytest.MonkeyPatch.context() as patch:

            def streamed(self: Any, said: Any, **given: Any) -> Any:
                seen.append(said[-1])
                return stream_chat(self, said, **given)

            def whole(self: Any, said: Any, **given: Any) -> Any:
                seen.append(said[-1])
                return chat_(self, said, **given)

            patch.setattr(erllama.Model, "stream_chat", streamed)
            patch.setattr(erllama.Model, "chat", whole)
            await first(at, "call_1")
            await then(at, "call_1")
    assert seen[0] == seen[1] == {"role": "tool", "tool_call_id": "call_1", "name": "weather", "content": "rain"}
