"""Formats that write the tool's name first, and then its arguments as JSON: `[TOOL_CALLS]f[ARGS]{…}`. Pure."""

from __future__ import annotations

import re
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
    without_end,
)
from erllama_py.chat.tool_formats.json_text import begun_json, whole_json


class NamedStyle(msgspec.Struct, frozen=True, kw_only=True):
    """How a format writes its calls: `head`, the name, `between`, the arguments, `after`."""

    head: str
    between: str
    after: str = ""
    first: str = ""
    """What comes between the opening marker and the name of the first call: the head where that is not the marker."""
    separator: str | None = None
    """What stands between two calls of one section; `None`: there is one."""
    head_forms: str | None = None
    """A regular expression for the head, where it has other forms too."""
    name_end: str | None = None
    """The same for `between`."""


def named_format(
    name: str, found: Callable[[str], bool], marks: Marks, style: NamedStyle, short_ids: bool = False
) -> ToolFormat:
    """An entry for such a format."""
    head = re.compile(style.head_forms or re.escape(style.head))
    name_end = re.compile(style.name_end or re.escape(style.between))

    def read(section: str, tools: Mapping[str, dict[str, Any]], over: bool) -> list[Read]:
        return read_named(without_end(section, marks.end, over), head, name_end, over)

    def forms(tools: Sequence[Offered], rules: LarkRules, several: bool) -> list[Form]:
        return _forms(tools, rules, marks, style, several)

    heads, inner = () if style.separator is None else (style.head,), (style.head, style.between, style.after)
    marks = msgspec.structs.replace(marks, quotes='"', heads=heads, inner=tuple(filter(None, (*marks.inner, *inner))))
    return ToolFormat(name=name, found=found, marks=fixed(marks), reader=read, forms=forms, short_ids=short_ids)


def read_named(text: str, head: re.Pattern[str], name_end: re.Pattern[str], over: bool) -> list[Read]:
    """The calls of a text in which each has a head, a name, what ends the name, and JSON."""
    reads: list[Read] = []
    at = 0
    while (begins := head.search(text, at)) is not None:
        ends = name_end.search(text, begins.end())
        if ends is None:
            return [*reads, Read(begins.start(), problem="it has no arguments" if over else None)]
        name = text[begins.end() : ends.start()].strip()
        if not name:
            return [*reads, Read(begins.start(), problem="it names no tool")]
        at = after_opener(text, (), ends.end())
        found = whole_json(text, at)
        if found is None:
            return [*reads, _begun(text[at:], begins.start(), name, over)]
        value, at = found
        if not isinstance(value, dict):
            return [*reads, Read(begins.start(), name, None, True, "its arguments are no JSON object")]
        reads.append(Read(begins.start(), name, value, True))
    return reads


def _begun(text: str, start: int, name: str, over: bool) -> Read:
    shown = begun_json(text, strings=True) if text else {}
    if not isinstance(shown, dict):
        return Read(start, name, None, problem="its arguments are no JSON object" if over else None)
    return Read(start, name, shown or None)


def _forms(tools: Sequence[Offered], rules: LarkRules, marks: Marks, style: NamedStyle, several: bool) -> list[Form]:
    between, after = rules.marker(style.between), [rules.marker(style.after)] if style.after else []
    call = rules.rule(
        " | ".join(" ".join([literal(one.name), between, rules.schema(one.schema), *after]) for one in tools)
    )
    parts = [rules.marker(style.first)] if style.first else []
    parts.append(call)
    if several and style.separator is not None:
        separator = [literal(style.separator)] if style.separator else []
        parts.append(f"({' '.join([*separator, rules.marker(style.head), call])})*")
    if marks.end:
        parts.append(rules.marker(marks.end))
    return [Form(opener, " ".join(parts)) for opener in marks.opens]
