"""A tool that a reply may call: its name, what it is for, its arguments, and the function, where there is one. Pure."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from erllama_py.chat.functions import Function, function_of, is_function, name_of
from erllama_py.chat.schema import check_size
from erllama_py.errors import InvalidSchema
from erllama_py.errors.shown import shown

MAX_TOOLS = 128  # as in OpenAI's API
MOST_NAME = 100  # characters of a name that are looked at: no tool has a longer one
MAX_DESCRIPTION = 65_536  # characters
MAX_VALUES = 16_000  # in the schemas of all tools together: looking at each takes a microsecond
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")

# What other APIs call it.
_PARAMETERS = ("input_schema", "inputSchema", "parameters_json_schema", "args")


class Tool(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """A tool, checked."""

    name: str
    description: str
    parameters: dict[str, Any]
    """The JSON schema of its arguments, which is always that of an object."""
    shown: dict[str, Any]
    """The mapping that the chat template gets, in OpenAI's form; one that was given so, as it was."""
    function: Function | None = None
    """What carries a call out; `None` where the caller does."""


class BadTool(Exception):
    """Something is no tool; the text says which, and why."""


def tools_of(given: Sequence[object]) -> tuple[Tool, ...]:
    """Tools out of mappings and functions. Raises `BadTool`."""
    if len(given) > MAX_TOOLS:
        raise BadTool(f"at most {MAX_TOOLS} tools can be given, got {len(given)}")
    tools = tuple(_tool(one, number) for number, one in enumerate(given, 1))
    known: set[str] = set()
    for tool in tools:
        if tool.name in known:
            raise BadTool(f"two tools are called {tool.name!r}")
        known.add(tool.name)
    values = 0
    for tool in tools:
        values += _size(tool.parameters, tool.name)
        if values > MAX_VALUES:
            raise BadTool(f"the schemas of all tools have more than {MAX_VALUES} values together")
    return tools


def _tool(given: object, number: int) -> Tool:
    if isinstance(given, Tool):
        return given
    where = f"tool {number}"
    if isinstance(given, Mapping):
        return _of_mapping(given, where)
    if not is_function(given):
        raise BadTool(f"{where} is a {type(given).__name__}; a mapping or a function is expected")
    return _of_function(given, where)


def _of_function(given: Callable[..., Any], where: str) -> Tool:
    name = _checked_name(name_of(given), where)
    try:
        function = function_of(given)
    except ValueError as error:
        raise BadTool(f"the tool {name!r}: {error}") from error
    _check_description(function.description, name)
    said: dict[str, Any] = {"name": name, "description": function.description, "parameters": function.parameters}
    return Tool(**said, shown={"type": "function", "function": said}, function=function)


def _of_mapping(given: Mapping[Any, Any], where: str) -> Tool:
    inner: Any = given
    if "function" in given or "type" in given:
        if given.get("type", "function") != "function":
            raise BadTool(f"{where} is of the type {shown(given['type'])}; only 'function' is known")
        inner = given.get("function")
        if not isinstance(inner, Mapping):
            raise BadTool(f"{where}: 'function' is a mapping with name, description and parameters")
    name = _checked_name(inner.get("name"), where)
    description = inner.get("description")
    if description is not None and not isinstance(description, str):
        raise BadTool(f"the tool {name!r}: its description is a str, not {type(description).__name__}")
    _check_description(description or "", name)
    parameters = _parameters(inner, name)
    outer = {} if inner is given else given
    mapping = {**outer, "type": "function", "function": {**inner, "parameters": parameters}}
    return Tool(name=name, description=description or "", parameters=parameters, shown=mapping)


def _parameters(inner: Mapping[Any, Any], name: str) -> dict[str, Any]:
    given = inner.get("parameters")
    if given is None:
        if other := next((key for key in inner if key in _PARAMETERS), None):
            raise BadTool(f"the tool {name!r}: its schema is expected under 'parameters', not {shown(other)}")
        return {"type": "object", "properties": {}}
    if not isinstance(given, Mapping):
        raise BadTool(f"the tool {name!r}: its parameters are a JSON schema, not {type(given).__name__}")
    schema = dict(given)
    _size(schema, name)
    if schema.get("type", "object") != "object":
        raise BadTool(f"the tool {name!r}: its parameters are of the type 'object', not {schema['type']!r}")
    copied: dict[str, Any] = json.loads(json.dumps(schema))  # the caller's own may change
    return {"type": "object", "properties": {}, **copied}


def _size(parameters: dict[str, Any], name: str) -> int:
    """How many values they have, if they are JSON and not too much of it."""
    try:
        return check_size(parameters)
    except InvalidSchema as error:
        raise BadTool(f"the tool {name!r}: its parameters: {error}") from error


def _checked_name(name: object, where: str) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise BadTool(f"{where}: a name has 1 to 64 of A-Z, a-z, 0-9, _ and -, got {shown(name)}")
    return name


def _check_description(text: str, name: str) -> None:
    if len(text) > MAX_DESCRIPTION:
        raise BadTool(f"the tool {name!r}: its description has more than {MAX_DESCRIPTION} characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadTool(f"the tool {name!r}: its description has no UTF-8 form: it holds a lone surrogate") from None


def nearest_tool(name: str, tools: Sequence[Tool]) -> str | None:
    """The tool whose name is closest to one that no tool has."""
    close = difflib.get_close_matches(name[:MOST_NAME], [tool.name for tool in tools], n=1)
    return close[0] if close else None


def no_tool(name: str, tools: Sequence[Tool]) -> str:
    """What a model is told that has called one that is not there."""
    near = nearest_tool(name, tools)
    return f"there is no tool {name[:80]!r}" + (f"; did you mean {near!r}?" if near else "")
