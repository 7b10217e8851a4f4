"""Formats whose calls are JSON objects with the tool's name in them: `{"name": "f", "arguments": {…}}`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from erllama_py.chat.lark_rules import LarkRules, literal
from erllama_py.chat.tool_formats.base import (
    Form,
    Marks,
    Offered,
    Read,
    ToolFormat,
    after_opener,
    fixed,
    is_begun_marker,
    without_end,
)
from erllama_py.chat.tool_formats.json_text import begun_json, json_value, whole_json

_NAMES, _ARGUMENTS = ("name", "tool_name"), ("arguments", "parameters")  # of all formats: models mix them


class JsonStyle(msgspec.Struct, frozen=True, kw_only=True):
    """How a format writes its objects: `before` the tool's name, `between` it and the arguments, `after` them."""

    before: str = '{"name": "'
    between: str = '", "arguments": '
    after: str = "}"
    first: str = ""
    """What comes between the opening marker and the first object."""
    separator: str | None = None
    """What stands between two objects of one section; `None`: there is one."""
    last: str = ""
    """What comes between the last object and the closing marker."""


_NEWLINE = "\n"
LIST = JsonStyle(first="[", separator=", ", last="]")


def json_format(
    name: str, found: Callable[[str], bool], marks: Marks, style: JsonStyle, short_ids: bool = False
) -> ToolFormat:
    """An entry for such a format."""

    def read(section: str, tools: Mapping[str, dict[str, Any]], over: bool) -> list[Read]:
        return read_objects(without_end(section, marks.end, over), marks, over)

    def forms(tools: Sequence[Offered], rules: LarkRules, several: bool) -> list[Form]:
        return _forms(tools, rules, marks, style, several)

    marks = msgspec.structs.replace(marks, quotes='"')
    guesses = bool(marks.at_start) and marks.end is not None
    return ToolFormat(
        name=name, found=found, marks=fixed(marks), reader=read, forms=forms, guesses=guesses, short_ids=short_ids
    )


def read_objects(text: str, marks: Marks, over: bool) -> list[Read]:
    """The calls of a text of JSON objects, in a list or one after the other."""
    reads: list[Read] = []
    opens = marks.opens
    at = after_opener(text, opens)
    at += text.startswith("[", at)
    while True:
        at = after_opener(text, (*opens, ",", ";"), at)
        if at >= len(text) or text[at] == "]":
            return reads
        if is_begun_marker(text[at:], marks):
            return reads
        if text[at] != "{":
            return [*reads, Read(at, problem="a call is a JSON object")]
        found = whole_json(text, at)
        if found is None:
            return [*reads, _begun(text[at:], at, over)]
        reads.append(_whole(found[0], at))
        at = found[1]


def _whole(value: dict[str, Any], start: int) -> Read:
    value = _inner(value)
    name, arguments = _first(value, _NAMES), _first(value, _ARGUMENTS)
    if not isinstance(name, str) or not name:
        return Read(start, "", None, True, "it names no tool")
    if isinstance(arguments, str):  # JSON within JSON, as OpenAI's API has it
        try:
            arguments = json_value(arguments)
        except ValueError as error:
            return Read(start, name, None, True, f"its arguments are no JSON: {error}")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        return Read(start, name, None, True, "its arguments are no JSON object")
    return Read(start, name, arguments, True)


def _begun(text: str, start: int, over: bool) -> Read:
    known, shown = begun_json(text, strings=False), begun_json(text, strings=True)
    if not isinstance(known, dict) or not isinstance(shown, dict):
        return Read(start, problem="it is no JSON" if over else None)
    name, arguments = _first(_inner(known), _NAMES), _first(_inner(shown), _ARGUMENTS)
    if isinstance(arguments, str):
        arguments = begun_json(arguments, strings=True)
    return Read(start, name if isinstance(name, str) else "", arguments if isinstance(arguments, dict) else None)


def _inner(value: dict[str, Any]) -> dict[str, Any]:
    inner = value.get("function")
    return inner if isinstance(inner, dict) else value


def _first(value: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((value[key] for key in keys if key in value), None)


def _forms(tools: Sequence[Offered], rules: LarkRules, marks: Marks, style: JsonStyle, several: bool) -> list[Form]:
    objects = " | ".join(
        f"{literal(style.before + tool.name + style.between)} {rules.schema(tool.schema)} {literal(style.after)}"
        for tool in tools
    )
    call = rules.rule(objects)
    calls = call if style.separator is None or not several else f"{call} ({literal(style.separator)} {call})*"
    body = " ".join([*_text(style.first), calls, *_text(style.last), *([rules.marker(marks.end)] if marks.end else [])])
    forms = [Form(opener, body) for opener in marks.opens]
    if marks.at_start and marks.end is None:
        forms.append(Form("", body))
    elif marks.at_start:  # where the opening marker is forgotten, so is the closing one
        forms.append(Form("", f"{call} ({literal(_NEWLINE)} {call})*" if several else call))
    return forms


def _text(text: str) -> list[str]:
    return [literal(text)] if text else []
