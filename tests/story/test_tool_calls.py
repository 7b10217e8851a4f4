"""Calls of tools, from the chat template to the completion: scripted replies in each format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.both_backends import BACKENDS, loaded
from helpers.scripted import scripted
from helpers.tool_replies import CONTROLS, NOOP, ONE_CALL, WEATHER, WRITTEN, Call, template_of

import erllama_py as erllama
from erllama_py.chat.tool import tools_of
from erllama_py.chat.tool_formats import FORMATS, ToolFormat, format_named
from erllama_py.handle.tool_calls import ReplyCalls
from erllama_py.results import CallText

pytestmark = pytest.mark.anyio

ALL = pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
ASKED = [{"role": "user", "content": "How is the weather?"}]
TOOLS = [WEATHER, NOOP]
CALLS: list[Call] = [("get_weather", {"city": "Zürich", "days": 2}), ("noop", {})]


def wanted(form: ToolFormat) -> list[Call]:
    return CALLS[:1] if form.name in ONE_CALL else CALLS


def known(calls: Sequence[erllama.ToolCall]) -> list[Call]:
    assert [call.problem for call in calls] == [None] * len(calls)
    return [(call.name, call.arguments) for call in calls]


@pytest.mark.slow
@ALL
@pytest.mark.parametrize("as_tokens", [True, False])
async def test_a_model_of_each_format_calls_tools(form: ToolFormat, as_tokens: bool) -> None:
    """Its markers are control tokens, or text: the calls are in the completion, and in no text."""
    controls = CONTROLS.get(form.name, ()) if as_tokens else ()
    written = WRITTEN[form.name](wanted(form))
    async with scripted(written, controls=controls, template=template_of(form.name)) as (_, model, script):
        done = await model.chat(ASKED, tools=TOOLS)
        assert (known(done.tool_calls), done.reply, done.finish_reason) == (wanted(form), "", "stop")
        assert '"get_weather"' in script.prompts[0]
        async with model.stream_chat(ASKED, tools=TOOLS) as stream:
            events = [event async for event in stream]
        ends = [event.call for event in events if isinstance(event, erllama.ToolCallEnd)]
        assert known(ends) == wanted(form)
        assert isinstance(events[-1], erllama.Done)
        assert events[-1].completion.tool_calls == tuple(ends)
        deltas = [event for event in events if isinstance(event, erllama.ToolCallDelta)]
        for call in ends:
            own = [event for event in deltas if event.id == call.id]
            assert "".join(event.text for event in own) == call.text
            assert (own[-1].name, own[-1].arguments) == (call.name, call.arguments)
        assert not [event for event in events if isinstance(event, erllama.TextDelta)]
        tokens = [token for event in deltas for token in event.token_ids]
        assert tokens == events[-1].completion.generated


@pytest.mark.slow
@ALL
async def test_a_session_goes_on_after_a_call(form: ToolFormat) -> None:
    """The call is a message of the conversation; its result is the next one."""
    written = WRITTEN[form.name](wanted(form)[:1])
    async with scripted(written, "Sunny.", template=template_of(form.name)) as (_, model, _script):
        session = model.session(tools=TOOLS)
        done = await session.chat("How is the weather?")
        assert known(done.tool_calls) == wanted(form)[:1]
        result = {"role": "tool", "tool_call_id": done.tool_calls[0].id, "content": "sun"}
        answer = await session.chat(result)
        assert (answer.reply, answer.tool_calls) == ("Sunny.", ())
        assert session.messages[1]["tool_calls"][0]["function"]["name"] == "get_weather"
        await session.end()


@pytest.mark.slow
@ALL
async def test_a_choice_is_kept_to(form: ToolFormat) -> None:
    """A model that would talk has to call; one that would call cannot."""
    async with scripted("No.", template=template_of(form.name)) as (_, model, _script):
        done = await model.chat(ASKED, tools=[NOOP], tool_choice="required", parallel_tool_calls=False)
        assert (known(done.tool_calls), done.reply) == ([("noop", {})], "")
        done = await model.chat(ASKED, tools=TOOLS, tool_choice={"name": "noop"}, parallel_tool_calls=False)
        assert (known(done.tool_calls), done.reply) == ([("noop", {})], "")
    async with scripted(WRITTEN[form.name](CALLS[:1]), template=template_of(form.name)) as (_, model, script):
        done = await model.chat(ASKED, tools=TOOLS, tool_choice="none", response_tokens=200)
        assert done.tool_calls == ()
        assert '"get_weather"' in script.prompts[0]


@pytest.mark.parametrize("thinks", ["<think>\nhm <tool_call>\n</think>\n\n", ""])
async def test_a_model_thinks_before_it_calls(thinks: str) -> None:
    """What it thinks may look like a call."""
    template = template_of("hermes") + "{# <think></think> #}"
    written = WRITTEN["hermes"](CALLS)
    for choice in ("auto", "required"):
        async with scripted(f"{thinks}{written}", controls=("<think>", "</think>"), template=template) as world:
            done = await world[1].chat(ASKED, tools=TOOLS, tool_choice=choice)
            assert (known(done.tool_calls), done.reply) == (CALLS, "")
            assert done.thinking == ("hm <tool_call>" if thinks else None)


async def test_a_reply_is_calls_or_what_the_schema_says() -> None:
    """With `json_schema` and tools: the model chooses, and either is valid."""
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
    async with scripted(WRITTEN["hermes"](CALLS), '{"answer": 7}', "Hm", template=template_of("hermes")) as world:
        done = await world[1].chat(ASKED, tools=TOOLS, json_schema=schema)
        assert (known(done.tool_calls), done.parsed, done.parse_error) == (CALLS, None, None)
        done = await world[1].chat(ASKED, tools=TOOLS, json_schema=schema)
        assert (done.tool_calls, done.parsed) == ((), {"answer": 7})


async def test_a_call_that_is_cut_is_told_with_what_is_known_of_it() -> None:
    """By the reply's length, or since the stream was cancelled."""
    written = WRITTEN["hermes"](CALLS[:1])
    async with scripted(written, template=template_of("hermes")) as (_, model, _script):
        done = await model.chat(ASKED, tools=TOOLS, response_tokens=70)
        assert done.finish_reason == "length"
        assert [call.problem for call in done.tool_calls] == ["the call is not complete"]
        assert done.tool_calls[0].name == "get_weather"
        assert written.startswith(done.tool_calls[0].text)
        async with model.stream_chat(ASKED, tools=TOOLS) as stream:
            async for event in stream:
                if isinstance(event, erllama.ToolCallDelta) and event.arguments.get("city"):
                    stream.cancel()
                last = event
        assert isinstance(last, erllama.Done)
        assert last.completion.finish_reason in ("cancelled", "stop")


async def test_each_of_several_replies_has_calls_and_ids_of_its_own() -> None:
    """With `n`: the events say which reply they are of."""
    async with scripted(WRITTEN["hermes"](CALLS), template=template_of("hermes")) as (_, model, _script):
        async with model.stream_chat(ASKED, tools=TOOLS, n=3, temperature=0.5) as stream:
            events = [event async for event in stream]
        done = events[-1]
        assert isinstance(done, erllama.Done)
        ends = {(event.index, event.call.id) for event in events if isinstance(event, erllama.ToolCallEnd)}
        replies = done.completion.alternatives
        assert ends == {(index, call.id) for index, reply in enumerate(replies) for call in reply.tool_calls}
        assert len(ends) == 6


async def test_log_probabilities_come_with_the_deltas() -> None:
    """As many as tokens."""
    async with scripted(WRITTEN["hermes"](CALLS), template=template_of("hermes")) as (_, model, _script):
        async with model.stream_chat(ASKED, tools=TOOLS, logprobs=0) as stream:
            events = [event async for event in stream]
        deltas: list[Any] = [event for event in events if isinstance(event, erllama.ToolCallDelta)]
        assert all(len(event.logprobs) == len(event.token_ids) for event in deltas)


async def test_without_tools_what_looks_like_a_call_is_text() -> None:
    """Nothing was offered, so nothing is called."""
    written = WRITTEN["hermes"](CALLS)
    async with scripted(written, template=template_of("hermes")) as (_, model, _script):
        done = await model.chat(ASKED)
        assert (done.reply, done.tool_calls) == (written, ())


async def test_a_prompt_as_text_may_have_tools_too() -> None:
    """The application has shown them itself; the format is the model's, or the one that it names."""
    async with scripted(WRITTEN["hermes"](CALLS)) as (_, model, _script):
        assert known((await model.complete("hi", tools=TOOLS)).tool_calls) == CALLS
    async with scripted(WRITTEN["glm"](CALLS), tool_format="glm") as (_, model, _script):
        assert known((await model.complete("hi", tools=TOOLS)).tool_calls) == CALLS


@pytest.mark.parametrize(
    ("options", "error", "problem"),
    [
        ({"tools": [NOOP], "tool_choice": {"name": "nop"}}, erllama.InvalidOption, "did you mean 'noop'"),
        (
            {"tools": [{"name": "f", "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}]},
            erllama.InvalidSchema,
            "the tool 'f'",
        ),
        (
            {"tools": [{"name": "f", "parameters": {"properties": {"a": {"type": "string", "pattern": "("}}}}]},
            erllama.InvalidSchema,
            "the tool 'f'",
        ),
    ],
)
async def test_tools_that_no_grammar_can_hold_are_refused(
    options: dict[str, Any], error: type[Exception], problem: str
) -> None:
    """Before there is a request, with the name of the tool."""
    async with scripted("Hi", template=template_of("hermes")) as (_, model, script):
        with pytest.raises(error, match=problem) as caught:
            await model.chat(ASKED, **options)
        assert getattr(caught.value, "tool", "f") == "f"
        assert script.prompts == []


async def test_a_tool_that_is_not_strict_takes_any_arguments() -> None:
    """They are held against its schema all the same, and what is wrong with them is told."""
    loose = {"type": "function", "function": {**WEATHER, "strict": False}}
    async with scripted(WRITTEN["hermes"]([("get_weather", {"days": 99})]), template=template_of("hermes")) as world:
        done = await world[1].chat(ASKED, tools=[loose])
        assert [(one.arguments, one.problem) for one in done.tool_calls] == [
            ({"days": 99}, "the argument city: it is missing")
        ]


@pytest.mark.parametrize("name", [form.name for form in FORMATS if form.name in ("mistral", "mistral_named")])
async def test_ids_are_as_the_template_wants_them(name: str) -> None:
    """Nine letters and digits for Mistral's; OpenAI's form elsewhere."""
    async with scripted(WRITTEN[name](CALLS), template=template_of(name)) as (_, model, _script):
        done = await model.chat(ASKED, tools=TOOLS)
        assert all(len(call.id) == 9 and call.id.isalnum() for call in done.tool_calls)
    async with scripted(WRITTEN["hermes"](CALLS), template=template_of("hermes")) as (_, model, _script):
        done = await model.chat(ASKED, tools=TOOLS)
        assert all(call.id.startswith("call_") and len(call.id) == 29 for call in done.tool_calls)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["hermes", "qwen3_coder", "mistral", "lfm2", "llama3"])
async def test_calls_drawn_by_chance_are_valid(backend: str, name: Any, tmp_path: Path) -> None:
    """Of models that know nothing, on both backends: a call that comes to its end is one that its schema allows."""
    short = {"properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}, "required": ["a"]}
    async with loaded(backend, tmp_path, tool_format=name) as model:
        for seed in range(4):
            done = await model.complete(
                "hi", tools=[{"name": "f", "parameters": short}, NOOP], tool_choice="required", seed=seed,
                parallel_tool_calls=False, response_tokens=200, temperature=1.0,
            )  # fmt: skip
            assert done.reply == ""
            assert len(done.tool_calls) == 1
            assert (done.tool_calls[0].problem is None) == (done.finish_reason == "stop")


async def test_a_long_call_is_read_in_steps() -> None:
    """Some hundred readings of a call of 60,000 characters, however many tokens it has; no text of it is lost."""
    text, form = WRITTEN["hermes"]([("get_weather", {"city": "x" * 60_000})]), format_named("hermes")
    assert form is not None
    readings, events = 0, list[Any]()

    def read(*given: Any) -> Any:
        nonlocal readings
        readings += 1
        return form.reader(*given)

    calls = ReplyCalls(msgspec.structs.replace(form, reader=read), tools_of(TOOLS))
    feed = calls.events(events.append, 0)
    for start in range(0, len(text), 10):
        piece = text[start : start + 10]
        feed(CallText(piece, [start], closed=start + 10 >= len(text)))
    assert readings < 16_384 // 10 + 110
    assert "".join(event.text for event in events[:-1]) == text
    assert [token for event in events[:-1] for token in event.token_ids] == [*range(0, len(text), 10)]
    assert events[-1].call.arguments == {"city": "x" * 60_000}
