"""Tools through Anthropic's own client: calls come as blocks, and results go back."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from helpers.claude import says
from helpers.scripted import Script
from helpers.tool_replies import CONTROLS, NOOP, ONE_CALL, WEATHER, WRITTEN, Call, template_of

from erllama_py.chat.tool_formats import FORMATS, ToolFormat

HELLO: Any = {"role": "user", "content": "How is the weather?"}
TOOLS: Any = [
    {"name": tool["name"], "description": "", "input_schema": tool.get("parameters", {"type": "object"})}
    for tool in (WEATHER, NOOP)
]
ASK: Any = {"model": "m", "max_tokens": 400, "messages": [HELLO], "tools": TOOLS}
CALLS: list[Call] = [("get_weather", {"city": "Zürich ", "days": 2, "alerts": True}), ("noop", {})]
HERMES: Any = {"template": template_of("hermes")}
WRITES = WRITTEN["hermes"](CALLS)


def calls_of(message: Any) -> list[Call]:
    """What it calls, with what."""
    return [(block.name, block.input) for block in message.content if block.type == "tool_use"]


@pytest.mark.anyio
async def test_calls_are_blocks() -> None:
    """After the text; their ids go with the results."""
    async with says("I look.\n" + WRITES, "12 °C", **HERMES) as (client, script, _):
        message = await client.messages.create(**ASK)
        assert message.stop_reason == "tool_use"
        assert [block.type for block in message.content] == ["text", "tool_use", "tool_use"]
        assert calls_of(message) == CALLS
        results: Any = [
            {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "cold"}]}
            for block in message.content[1:]
        ]
        results[1]["is_error"] = True
        turns = [HELLO, message.to_param(), {"role": "user", "content": [*results, {"type": "text", "text": "so?"}]}]
        answer = await client.messages.create(**ASK | {"messages": turns})
        assert answer.content[0].text == "12 °C"
        assert answer.stop_reason == "end_turn"
        said = script.prompts[1]
        assert said.index("cold") < said.index("Error: cold") < said.index("so?")


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
async def test_a_stream_writes_the_input_piece_by_piece(form: ToolFormat) -> None:
    """The pieces together are JSON, in each format."""
    wanted = CALLS[:1] if form.name in ONE_CALL else CALLS
    replies = {"controls": CONTROLS.get(form.name, ()), "template": template_of(form.name)}
    async with says(WRITTEN[form.name](wanted), **replies) as (client, _, _model):
        pieces = 0
        async with client.messages.stream(**ASK) as stream:
            async for event in stream:
                pieces += event.type == "input_json"
            message = await stream.get_final_message()
        assert calls_of(message) == wanted
        assert message.stop_reason == "tool_use"
        assert all(block.type == "tool_use" for block in message.content)
        assert pieces > 3
        assert calls_of(await client.messages.create(**ASK)) == wanted


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({"type": "auto"}, CALLS),
        ({"type": "any"}, CALLS),
        ({"type": "any", "disable_parallel_tool_use": True}, CALLS[:1]),
        ({"type": "auto", "disable_parallel_tool_use": True}, CALLS[:1]),
        ({"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}, CALLS[:1]),
        ({"type": "none"}, []),
    ],
    ids=str,
)
async def test_the_choice_is_kept(choice: Any, wanted: list[Call]) -> None:
    """Whatever the model would say."""
    async with says(WRITES, **HERMES) as (client, _, _model):
        message = await client.messages.create(**ASK, tool_choice=choice)
        assert calls_of(message)[: len(wanted)] == wanted
        assert bool(calls_of(message)) == bool(wanted)


@pytest.mark.anyio
async def test_a_tool_that_is_not_there_cannot_be_chosen() -> None:
    """The nearest is named."""
    async with says(WRITES, **HERMES) as (client, _, _model):
        with pytest.raises(anthropic.BadRequestError, match=r"tool_choice.*'get_wether'"):
            await client.messages.create(**ASK, tool_choice={"type": "tool", "name": "get_wether"})


@pytest.mark.anyio
async def test_tools_work_where_the_template_shows_none() -> None:
    """They are told in the system message."""
    async with says(WRITES, template=Script().template) as (client, script, _model):
        message = await client.messages.create(**ASK, system="Be brief.")
        assert calls_of(message) == CALLS
        assert "get_weather" in script.prompts[0]


@pytest.mark.anyio
async def test_a_schema_that_no_grammar_holds_is_taken_unless_it_is_strict() -> None:
    """As clients send them: any object counts as the arguments then."""
    odd = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    tools: Any = [*TOOLS, {"name": "odd", "input_schema": odd}, {"name": "other", "input_schema": odd}]
    async with says(WRITTEN["hermes"]([("odd", {"a": [1, 1]})]), **HERMES) as (client, script, _model):
        message = await client.messages.create(**ASK | {"tools": tools})
        assert calls_of(message) == [("odd", {"a": [1, 1]})]
        assert len(script.prompts) == 1
        tools[-1]["strict"] = True
        with pytest.raises(anthropic.BadRequestError, match="uniqueItems"):
            await client.messages.create(**ASK | {"tools": tools})


@pytest.mark.anyio
async def test_a_call_that_is_cut_is_told_as_far_as_it_came() -> None:
    """And why it ended."""
    async with says(WRITES, **HERMES) as (client, _, _model):
        ask = ASK | {"max_tokens": 64}
        message = await client.messages.create(**ask)
        assert message.stop_reason == "max_tokens"
        assert calls_of(message)[0][0] == "get_weather"
        async with client.messages.stream(**ask) as stream:
            assert calls_of(await stream.get_final_message()) == calls_of(message)


@pytest.mark.anyio
async def test_a_reply_can_be_json_of_a_schema() -> None:
    """Under both names that the field has had, and by the client's own types."""
    import pydantic

    class Planet(pydantic.BaseModel):
        name: str
        moons: int

    async with says('{"name": "Mars", "moons": 2}') as (client, _, _model):
        ask: Any = {"model": "m", "max_tokens": 400, "messages": [HELLO]}
        message = await client.messages.parse(**ask, output_format=Planet)
        assert message.parsed_output == Planet(name="Mars", moons=2)
        schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
        beta = {"output_format": {"type": "json_schema", "schema": schema}}
        message = await client.messages.create(**ask, extra_body=beta)
        assert message.content[0].text.startswith('{"ok": ')
        async with client.messages.stream(**ask, output_format=Planet) as stream:
            assert (await stream.get_final_message()).parsed_output == Planet(name="Mars", moons=2)
