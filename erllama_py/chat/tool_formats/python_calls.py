"""Formats whose calls are a list in the syntax of Python: `[f(a=1), g()]`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from erllama_py.chat.lark_rules import LarkRules, literal
from erllama_py.chat.schema import schema_text
from erllama_py.chat.structure import JSON_STYLE
from erllama_py.chat.tool_formats.base import (
    Form,
    Marks,
    Offered,
    Read,
    ToolFormat,
    after_opener,
    is_begun_marker,
    without_end,
)
from erllama_py.chat.tool_formats.json_calls import read_objects
from erllama_py.chat.tool_formats.python_text import NoCall, python_call
from erllama_py.chat.tool_formats.single_arguments import parameters_of
from erllama_py.errors import InvalidSchema

EMPTY = literal("")  # a rule that may write nothing


def python_format(name: str, found: Callable[[str], bool], marks: Marks) -> ToolFormat:
    """An entry for such a format. Calls in JSON are read too: some templates show them so."""

    def read(section: str, tools: Mapping[str, dict[str, Any]], over: bool) -> list[Read]:
        return _read(without_end(section, marks.end, over), marks, over)

    def forms(tools: Sequence[Offered], rules: LarkRules, several: bool) -> list[Form]:
        return _forms(tools, rules, marks, several)

    def marks_of(names: Sequence[str]) -> Marks:
        if not marks.at_start:
            return marks
        # The name of a tool tells a list of calls from any other text that begins with a bracket.
        return msgspec.structs.replace(marks, at_start=tuple(f"[{name}(" for name in names))

    marks = msgspec.structs.replace(marks, quotes="\"'")
    return ToolFormat(name=name, found=found, marks=marks_of, reader=read, forms=forms)


def _read(text: str, marks: Marks, over: bool) -> list[Read]:
    at = after_opener(text, marks.opens)
    if text[at : at + 1] == "{" or text[at:].lstrip("[ \t\r\n").startswith("{"):
        return read_objects(text, marks, over)
    at += text.startswith("[", at)
    reads: list[Read] = []
    while True:
        at = after_opener(text, (",", ";"), at)
        if at >= len(text) or text[at] == "]" or is_begun_marker(text[at:], marks):
            return reads
        try:
            call = python_call(text, at)
        except NoCall as error:
            return [*reads, Read(at, problem=f"it is no call in Python's syntax: {error}")]
        reads.append(Read(at, call.name, call.arguments if call.name else None, call.end >= 0))
        if call.end < 0:
            return reads
        at = call.end


def _forms(tools: Sequence[Offered], rules: LarkRules, marks: Marks, several: bool) -> list[Form]:
    arguments = {tool.name: f'{_arguments(tool, rules)} ")"' for tool in tools}
    call = rules.rule(" | ".join(f"{literal(f'{name}(')} {rest}" for name, rest in arguments.items()))
    # One literal with the bracket: other text may begin with it too, where there is no marker.
    parts = [rules.rule(" | ".join(f"{literal(f'[{name}(')} {rest}" for name, rest in arguments.items()))]
    if several:
        parts.append(f'(", " {call})*')
    parts.append('"]"')
    if marks.end:
        parts.append(rules.marker(marks.end))
    return [Form(opener, " ".join(parts)) for opener in (*marks.opens, *([""] if marks.at_start else []))]


def _arguments(tool: Offered, rules: LarkRules) -> str:
    """The arguments in their order, with commas between those that are there."""
    parameters = parameters_of(tool, "in Python's syntax")
    if parameters.any_names:
        one = rules.rule(f'/[A-Za-z_][A-Za-z0-9_]*/ "=" {_value(parameters.others or {}, rules)}')
        return f'({one} (", " {one})*)?'
    first = more = ""  # what may follow where nothing was written yet, and where something was
    for name, about in reversed(parameters.named.items()):
        if not name.isidentifier():
            raise InvalidSchema(
                f"this model writes arguments in Python's syntax: {name!r} is no name there", "properties"
            )
        value = rules.rule(f"{literal(f'{name}=')} {_value(about, rules)}")
        if name in parameters.required:
            first, more = rules.rule(f"{value} {more}"), rules.rule(f'", " {value} {more}')
        else:
            first = rules.rule(f"{value} {more} | {first or EMPTY}")
            more = rules.rule(f'(", " {value})? {more}')
    return first


def _value(schema: dict[str, Any], rules: LarkRules) -> str:
    if schema.get("type") == "boolean" and schema.keys() <= {"type", "description", "title", "default"}:
        return '("True" | "False")'
    if schema.get("type") == "null":
        return '"None"'
    return rules.schema(schema_text(schema, **JSON_STYLE))
