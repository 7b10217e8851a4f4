"""A stub that says what a test wants: replies in order, by prompt, by a function; structures are followed."""

from __future__ import annotations

import json
from typing import Any

import pytest

import erllama_py as erllama
from erllama_py.testing import Backend, Script, StubBackend, make_backend

pytestmark = pytest.mark.anyio

HI = [{"role": "user", "content": "How is the weather?"}]


async def said(stub: Any, *prompts: str, **options: Any) -> list[str]:
    """What a stub of these options replies to the prompts, one after another."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {"backend": "stub", "stub": stub})
        return [(await model.complete(prompt, **options)).reply for prompt in prompts]


async def test_replies_are_given_in_their_order() -> None:
    """The last one to all that come after, and each ends by itself."""
    assert await said({"replies": ["Hello.", "Größe: 3"]}, "a", "b", "c") == ["Hello.", "Größe: 3", "Größe: 3"]


async def test_replies_are_given_by_what_the_prompt_contains() -> None:
    """The first that fits; the empty text fits any; without one the stub's own letters are said."""
    replies = {"weather": "Sunny.", "the": "It."}
    assert await said({"replies": {**replies, "": "Else."}}, "the weather", "the", "x") == ["Sunny.", "It.", "Else."]
    assert await said({"replies": replies}, "x", seed=1, response_tokens=9) == await said(
        {}, "x", seed=1, response_tokens=9
    )


async def test_a_reply_is_cut_by_the_options_of_its_request() -> None:
    """As a real one is: by its length and by stop sequences."""
    assert await said({"replies": ["one, two"]}, "a", response_tokens=3) == ["one"]
    assert await said({"replies": ["one, two"]}, "a", stop_sequences=[","]) == ["one"]


async def test_only_requests_that_reply_take_one() -> None:
    """Warming the cache, scores and embeddings take none."""
    script = Script("first", "second")
    async with erllama.Runtime(backend_factory=script.backend) as runtime:
        model = await runtime.load_model("m", {"backend": "stub"})
        await model.prefill_only("a")
        await model.choose("a", ["x", "y"])
        assert (await model.complete("a")).reply == "first"
        assert (await model.complete("b")).reply == "second"
    assert script.prompts == ["a", "b"]


async def test_a_grammar_is_obeyed_with_a_script_and_without() -> None:
    """In llama.cpp's form; what a script says otherwise gives way."""
    yes_or_no = 'root ::= "yes" | "no"'
    for stub in ({}, {"replies": ["maybe"]}):
        for reply in await said(stub, "a", "b", "c", "d", grammar=yes_or_no):
            assert reply in ("yes", "no")
    assert await said({"replies": ["no"]}, "a", grammar=yes_or_no) == ["no"]


async def test_a_schema_is_filled_as_the_script_says() -> None:
    """So that a test of typed replies has the value that it needs."""
    async with erllama.Runtime() as runtime:
        stub: Any = {"replies": ['{"city": "Oslo"}']}
        model = await runtime.load_model("m", {"backend": "stub", "stub": stub})
        done = await model.chat(HI, json_schema={"type": "object", "properties": {"city": {"type": "string"}}})
        assert done.parsed == {"city": "Oslo"}


async def test_a_script_calls_tools_in_the_form_of_its_template() -> None:
    """And answers once it has their results."""

    def weather(city: str) -> str:
        """The weather in a city."""
        return f"rain in {city}"

    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    script = Script(call, lambda prompt: "It rains." if "rain in Oslo" in prompt else "?")
    async with erllama.Runtime(backend_factory=script.backend) as runtime:
        model = await runtime.load_model("m", {"backend": "stub"})
        ran = await model.run_tools(list(HI), tools=[weather], temperature=0.0)
    assert (ran.ended, ran.completions[-1].reply) == ("answer", "It rains.")


async def test_a_factory_of_an_application_is_typed_by_public_names() -> None:
    """It gets the id and the configuration, and may hand on to what the runtime has by itself."""
    made: list[Backend] = []

    def factory(model_id: str, config: erllama.ModelConfig) -> Backend:
        made.append(make_backend(model_id, config))
        return made[-1]

    async with erllama.Runtime(backend_factory=factory) as runtime:
        await runtime.load_model("m", {"backend": "stub"})
    assert isinstance(made[0], StubBackend)


async def test_replies_that_are_no_texts_are_refused() -> None:
    """At the load."""
    for replies in ([1], "text", {"a": 1}):
        with pytest.raises(erllama.InvalidOption, match=r"stub\.replies"):
            await said({"replies": replies}, "a")


@pytest.mark.parametrize("replies", [(["a", "b"],), (5,), (b"a",), ({5: "a"},), ({"a": 5},), ("a", None)])
async def test_a_script_of_what_is_no_reply_is_refused_where_it_is_made(replies: tuple[Any, ...]) -> None:
    """A model would crash with it, far from the mistake."""
    with pytest.raises(erllama.InvalidOption, match='as in Script\\("a", "b"\\)'):
        Script(*replies)


@pytest.mark.parametrize("value", ["Oslo", " a  b "])
@pytest.mark.parametrize("form", ["{ %s , %s }", "{%s,%s}", "{\n  %s,\n  %s\n}\n", " {%s, %s}"])
async def test_json_of_a_script_may_be_written_in_any_way(form: str, value: str) -> None:
    """What white space a structure allows is its own matter; within a text it stays."""
    reply = form % (f'"city": {json.dumps(value)}', '"days":3')
    properties = {"city": {"type": "string"}, "days": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "required": ["city", "days"]}
    async with erllama.Runtime(backend_factory=Script(reply).backend) as runtime:
        model = await runtime.load_model("m", {"backend": "stub"})
        assert (await model.chat(HI, json_schema=schema)).parsed == {"city": value, "days": 3}


async def test_a_function_that_fails_has_its_request_fail() -> None:
    """With what it has raised, such as an assertion of the test's; the model goes on."""

    def wrong(prompt: str) -> str:
        raise AssertionError("a prompt without a name")

    async with erllama.Runtime(backend_factory=Script(wrong, "b").backend) as runtime:
        model = await runtime.load_model("m", {"backend": "stub"})
        with pytest.raises(erllama.InvalidOption, match="raised AssertionError: a prompt without a name"):
            await model.complete("a")
        assert (await model.complete("a")).reply == "b"
        assert model.info.restarts == 0


async def test_a_function_that_gives_no_text_fails_its_request() -> None:
    """With what is wrong; the model goes on."""

    def wrong(prompt: str) -> Any:
        return len(prompt)

    async with erllama.Runtime(backend_factory=Script(wrong).backend) as runtime:
        model = await runtime.load_model("m", {"backend": "stub"})
        with pytest.raises(erllama.InvalidOption, match="the function of a reply gives a str, not int"):
            await model.complete("a")
        assert model.info.restarts == 0
