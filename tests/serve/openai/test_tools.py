"""Calls of tools as OpenAI's clients see them: whole, and put together from a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers.scripted import Script
from helpers.served import Served, events, served
from helpers.tool_replies import CONTROLS, NOOP, ONE_CALL, WEATHER, WRITTEN, Call, template_of
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from erllama_py.chat.tool_formats import FORMATS, ToolFormat

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions"
CALLS: list[Call] = [("get_weather", {"city": 'Zürich "am" See ', "days": 12, "alerts": True}), ("noop", {})]
TOOLS = [{"type": "function", "function": one} for one in (WEATHER, NOOP)]
ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "How is the weather?"}]}


def script_of(name: str, calls: list[Call], before: str = "") -> Script:
    """A model of a format that makes these calls."""
    return Script(before + WRITTEN[name](calls), controls=CONTROLS.get(name, ()), template=template_of(name))


async def chunks_of(at: Served, body: dict[str, Any]) -> list[ChatCompletionChunk]:
    """The chunks of a stream, each as the SDK's type."""
    answer = await at.client.post(PATH, json=body | {"stream": True})
    assert answer.status_code == 200, answer.text
    *chunks, end = events(answer.text)
    assert end == "[DONE]"
    return [ChatCompletionChunk.model_validate(chunk, strict=True) for chunk in chunks]


def together(chunks: list[ChatCompletionChunk]) -> list[tuple[str, str, str]]:
    """The calls as clients put them together: id, name, arguments."""
    calls: dict[int, list[str]] = {}
    for chunk in chunks:
        for delta in chunk.choices[0].delta.tool_calls or () if chunk.choices else ():
            assert delta.function is not None
            if delta.index not in calls:
                assert delta.id
                assert delta.type == "function"
                assert delta.function.name
                assert delta.index == len(calls)
                calls[delta.index] = [delta.id, delta.function.name, ""]
            else:
                assert (delta.id, delta.function.name) == (None, None)
            calls[delta.index][2] += delta.function.arguments or ""
    return [(one[0], one[1], one[2]) for one in calls.values()]


async def whole_of(at: Served, body: dict[str, Any]) -> ChatCompletion:
    """The whole reply, as the SDK's type."""
    answer = await at.client.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    return ChatCompletion.model_validate(answer.json(), strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
async def test_calls_of_each_format(form: ToolFormat) -> None:
    """A stream gives them in pieces, which make the very calls that the whole reply has."""
    calls = CALLS[:1] if form.name in ONE_CALL else CALLS
    async with served(script=script_of(form.name, calls)) as at:
        whole = await whole_of(at, ASK | {"tools": TOOLS})
        choice = whole.choices[0]
        assert choice.message.content is None
        assert choice.finish_reason == "tool_calls"
        functions = [call.function for call in choice.message.tool_calls or () if call.type == "function"]
        assert [(one.name, json.loads(one.arguments)) for one in functions] == calls
        chunks = await chunks_of(at, ASK | {"tools": TOOLS})
        assert [(name, text) for _, name, text in together(chunks)] == [(one.name, one.arguments) for one in functions]
        assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_a_call_comes_in_pieces() -> None:
    """Its name first, then its arguments as they are written; text before it stays text."""
    async with served(script=script_of("hermes", CALLS, "Let me look. ")) as at:
        chunks = await chunks_of(at, ASK | {"tools": TOOLS})
        (first, second) = together(chunks)
        assert (first[1], json.loads(first[2])) == CALLS[0]
        assert (second[1], json.loads(second[2])) == CALLS[1]
        assert first[0] != second[0]
        pieces = [one for chunk in chunks for one in chunk.choices[0].delta.tool_calls or () if one.index == 0]
        assert len(pieces) > 10
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).strip() == "Let me look."


@pytest.mark.slow
async def test_a_call_that_is_cut_short() -> None:
    """The reason is its length, and its arguments are JSON all the same."""
    async with served(script=script_of("hermes", CALLS)) as at:
        for most in (30, 55, 64):
            body = ASK | {"tools": TOOLS, "max_tokens": most}
            chunks = await chunks_of(at, body)
            assert chunks[-1].choices[0].finish_reason == "length"
            for _, _, text in together(chunks):
                json.loads(text)
            assert (await whole_of(at, body)).choices[0].finish_reason == "length"


async def test_functions_as_they_were() -> None:
    """Asked for by `functions`, a call is told as `function_call`, and its result is taken back."""
    script = script_of("hermes", CALLS[:1])
    async with served(script=script) as at:
        body = ASK | {"functions": [WEATHER], "function_call": {"name": "get_weather"}}
        whole = await whole_of(at, body)
        call = whole.choices[0].message.function_call
        assert call is not None
        assert (call.name, json.loads(call.arguments)) == CALLS[0]
        assert whole.choices[0].finish_reason == "function_call"
        assert whole.choices[0].message.tool_calls is None
        chunks = await chunks_of(at, body)
        deltas = [chunk.choices[0].delta.function_call for chunk in chunks]
        assert "".join(one.arguments or "" for one in deltas if one) == call.arguments
        assert [one.name for one in deltas if one and one.name] == ["get_weather"]
        said = whole.choices[0].message.model_dump()
        result = {"role": "function", "name": "get_weather", "content": "sun"}
        await whole_of(at, body | {"messages": [*ASK["messages"], said, result], "function_call": "none"})
        assert "sun" in script.prompts[-1]


async def test_choices_of_tools() -> None:
    """All forms of `tool_choice`; what cannot be is named."""
    named = {"type": "function", "function": {"name": "noop"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
    async with served(script=script_of("hermes", CALLS[1:])) as at:
        for choice in ("auto", "required", named, allowed, None):
            whole = await whole_of(at, ASK | {"tools": TOOLS, "tool_choice": choice})
            calls = whole.choices[0].message.tool_calls or ()
            assert [call.function.name for call in calls if call.type == "function"] == ["noop"]
        none = await whole_of(at, ASK | {"tools": TOOLS, "tool_choice": "none", "max_tokens": 9})
        assert none.choices[0].message.tool_calls is None
        for wrong in (
            "perhaps", {"type": "function", "function": {"name": "other"}},
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"name": "other"}]}},
            {"type": "allowed_tools"},
        ):  # fmt: skip
            answer = await at.client.post(PATH, json=ASK | {"tools": TOOLS, "tool_choice": wrong})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tool_choice")
        answer = await at.client.post(PATH, json=ASK | {"tools": [{"type": "custom", "custom": {"name": "x"}}]})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")
        plain = await at.client.post(PATH, json=ASK | {"parallel_tool_calls": False, "tools": [], "max_tokens": 4})
        assert plain.status_code == 200


async def test_a_tool_that_no_grammar_holds() -> None:
    """Is offered all the same, unless it is said to be strict."""
    odd = {"name": "odd", "parameters": {"type": "object", "properties": {"a": {"not": {"type": "null"}}}}}
    async with served(script=script_of("hermes", [("odd", {"a": 1})])) as at:
        for stream in (False, True):
            answer = await at.client.post(
                PATH, json=ASK | {"tools": [{"type": "function", "function": odd}], "stream": stream}
            )
            assert answer.status_code == 200
            assert "odd" in answer.text
        strict = {"type": "function", "function": odd | {"strict": True}}
        answer = await at.client.post(PATH, json=ASK | {"tools": [strict]})
        assert answer.status_code == 400
        assert "'odd'" in answer.json()["error"]["message"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "noop"}}])
async def test_a_call_that_is_asked_for_beside_the_form_of_a_text(choice: Any) -> None:
    """As agents with a type for their last answer do: the form is for the turn without a call."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    formed = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    async with served(script=script_of("hermes", CALLS[1:])) as at:
        whole = await whole_of(at, ASK | {"tools": TOOLS, "tool_choice": choice} | formed)
        assert whole.choices[0].message.tool_calls
        flat = [{"type": "function", **one} for one in (WEATHER, NOOP)]
        chosen = choice if isinstance(choice, str) else {"type": "function", "name": "noop"}
        asked = {"model": "tiny", "input": "x", "tools": flat, "tool_choice": chosen}
        text = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
        answer = await at.client.post("/v1/responses", json=asked | {"text": text})
        assert answer.status_code == 200, answer.text


async def test_counts_of_the_cache_are_of_the_prompt() -> None:
    """The reply is saved too, but clients add them up to the prompt."""
    async with served() as at:
        for _ in range(2):
            took = (await at.client.post(PATH, json=ASK | {"max_tokens": 64, "reasoning_effort": "max"})).json()[
                "usage"
            ]
            details = took["prompt_tokens_details"]
            assert details["cached_tokens"] + details["cache_write_tokens"] <= took["prompt_tokens"]
