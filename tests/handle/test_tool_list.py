"""The door of the option `tools`."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.runtime import stub_runtime, untyped

import erllama_py as erllama
from erllama_py.errors import InvalidOption, InvalidSchema
from erllama_py.handle.callable_tools import offered
from erllama_py.handle.tool_list import shown, tool_list

INNER: dict[str, Any] = {
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}},
}
OPENAI = {"type": "function", "function": INNER}


def add(x: int) -> int:
    """Adds."""
    return x + 1


def deep(levels: int) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": deep(levels - 1)}} if levels else {}


def test_the_three_forms_say_the_same() -> None:
    """A mapping of either form and a function give the template the same, but for what a schema requires."""
    for given in (INNER, OPENAI, add):
        (tool,) = tool_list([given])
        assert (tool.name, tool.description) == ("add", "Adds.")
        assert tool.parameters["properties"] == {"x": {"type": "integer"}}
        assert tool.shown["type"] == "function"
        assert tool.shown["function"]["parameters"] == tool.parameters
        assert (tool.function is not None) == (given is add)
    assert shown(tool_list([OPENAI])) == [OPENAI]


def test_a_mapping_keeps_what_else_it_holds() -> None:
    """Templates may show it."""
    (tool,) = tool_list([{**OPENAI, "strict": True, "function": {**INNER, "x-note": "n"}}])
    assert tool.shown["strict"] is True
    assert tool.shown["function"]["x-note"] == "n"


def test_what_was_checked_is_taken_again() -> None:
    """A tuple of tools goes through the door as it is; no tools are none."""
    tools = tool_list([add, {"name": "none"}])
    assert tool_list(tools) == tools
    assert tools[1].parameters == {"type": "object", "properties": {}}
    assert tool_list(None) == tool_list([]) == ()
    assert shown(()) is None


def test_later_changes_of_the_callers_mapping_change_nothing() -> None:
    """The schema is copied."""
    given = {"name": "add", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
    (tool,) = tool_list([given])
    given["parameters"]["properties"].clear()  # type: ignore[index]  # not only str
    assert tool.parameters["properties"] == {"x": {"type": "integer"}}


@pytest.mark.parametrize("parameters", [{"properties": 0}, {"required": True}, {"properties": {}, "required": None}])
def test_a_schema_of_another_form_is_refused(parameters: dict[str, Any]) -> None:
    """For formats too that go by its names one by one; one that is not strict may be anything."""
    (tool,) = tool_list([{"name": "add", "parameters": parameters}])
    with pytest.raises(InvalidSchema, match=r"of the tool 'add': .*is expected, not .*strict"):
        offered(tool)
    (loose,) = tool_list([{"name": "add", "parameters": parameters, "strict": False}])
    assert offered(loose).name == "add"


NAMES = "a name has 1 to 64 of A-Z, a-z, 0-9, _ and -"
WRONG: list[tuple[object, str]] = [
    (7, "a list of mappings and functions is expected, got int"),
    ("add", "a list of mappings and functions is expected, got str"),
    (OPENAI, "a list of tools is expected, got a single one"),
    (add, "a list of tools is expected, got a single one"),
    ((tool for tool in [OPENAI]), "a list of mappings and functions is expected, got generator"),
    ([None], "tool 1 is a NoneType; a mapping or a function is expected"),
    ([OPENAI, "add"], "tool 2 is a str; a mapping or a function is expected"),
    ([OPENAI, INNER], "two tools are called 'add'"),
    ([{"name": f"t{n}"} for n in range(129)], "at most 128 tools can be given, got 129"),
    ([{}], f"tool 1: {NAMES}, got None"),
    ([{"name": ""}], f"tool 1: {NAMES}, got ''"),
    ([{"name": "a b"}], f"tool 1: {NAMES}, got 'a b'"),
    ([{"name": "a\n"}], f"tool 1: {NAMES}, got 'a\\n'"),
    ([{"name": "a" * 65}], f"tool 1: {NAMES}, got '{'a' * 65}'"),
    ([lambda: None], f"tool 1: {NAMES}, got '<lambda>'"),
    ([{"type": "web_search"}], "tool 1 is of the type 'web_search'; only 'function' is known"),
    ([{"type": "function"}], "tool 1: 'function' is a mapping with name, description and parameters"),
    ([{"type": "function", "function": add}], "tool 1: 'function' is a mapping with name, description and parameters"),
    ([{"name": "a", "description": 1}], "the tool 'a': its description is a str, not int"),
    ([{"name": "a", "description": "\ud800"}], "the tool 'a': its description has no UTF-8 form"),
    ([{"name": "a", "description": "d" * 65_537}], "the tool 'a': its description has more than 65536 characters"),
    ([{"name": "a", "parameters": []}], "the tool 'a': its parameters are a JSON schema, not list"),
    ([{"name": "a", "parameters": {"type": "array"}}], "the tool 'a': its parameters are of the type 'object'"),
    ([{"name": "a", "parameters": {"x": {1}}}], "the tool 'a': its parameters: "),
    ([{"name": "a", "parameters": {1: 2}}], "the tool 'a': its parameters: "),
    ([{"name": "a", "parameters": deep(60)}], "the tool 'a': its parameters: "),
    (
        [{"name": "a", "input_schema": {}}],
        "its schema is expected under 'parameters', not 'input_schema'",
    ),
    ([{"name": f"t{n}", "parameters": {"enum": [1] * 2900}} for n in range(6)], "more than 16000 values together"),
    ([int], "the tool 'int': it is a class; give a function"),
    ([print], "the tool 'print': it takes *args"),
]


@pytest.mark.parametrize("given", [{"name": 10**5000}, {"name": [10**5000]}, {"type": 10**5000}])
def test_what_has_no_text_is_refused_as_well(given: dict[str, Any]) -> None:
    """Python writes no whole number of thousands of digits; the error says so, and is the one for all bad tools."""
    with pytest.raises(InvalidOption, match=r"bits|has no text"):
        tool_list([given])


@pytest.mark.parametrize(("given", "problem"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_bad_tools_are_refused_with_the_tools_name(given: object, problem: str) -> None:
    """Each by `InvalidOption`."""
    with pytest.raises(InvalidOption) as caught:
        tool_list(given)
    assert caught.value.option == "tools"
    assert problem in caught.value.problem


@pytest.mark.anyio
async def test_every_call_has_the_same_door() -> None:
    """Bad tools are refused wherever they are given; functions go wherever mappings go."""
    async with stub_runtime() as (_, model):
        messages = [{"role": "user", "content": "?"}]
        for bad in ([7], untyped(a=1)):
            with pytest.raises(InvalidOption):
                await model.chat(messages, tools=bad)
            with pytest.raises(InvalidOption):
                await model.apply_chat_template(messages, tools=bad)  # type: ignore[arg-type]  # a slip
            with pytest.raises(InvalidOption):
                model.session(tools=bad)  # type: ignore[arg-type]  # a slip
        assert (await model.chat(messages, tools=[add], response_tokens=4)).prompt_tokens
        shown = await model.detokenize(await model.apply_chat_template(messages, tools=[add]))
        assert '"name": "add"' in shown
        async with model.session(tools=[add]) as session:
            assert isinstance(await session.chat("?", response_tokens=4), erllama.Completion)
