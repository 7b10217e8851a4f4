"""Formats that write each argument between tags, a text as it is and all else as JSON. Pure.

<function=f>                          <tool_call>f
<parameter=a>                         <arg_key>a</arg_key>
1                                     <arg_value>1</arg_value>
</parameter>                          </tool_call>
</function>
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from erllama_py.chat.lark_rules import LarkRules, literal, without
from erllama_py.chat.schema import schema_text
from erllama_py.chat.segments import begun
from erllama_py.chat.structure import JSON_STYLE
from erllama_py.chat.tool_formats.base import Form, Marks, Offered, Read, ToolFormat, fixed, without_end
from erllama_py.chat.tool_formats.json_text import begun_json, json_value
from erllama_py.chat.tool_formats.single_arguments import DEFINITIONS, argument_schema, parameters_of

_PLAIN = frozenset({"type", "title", "description", "default", "examples", "deprecated", "$comment", *DEFINITIONS})
_WORDS = {"True": True, "False": False, "None": None}  # as models write them that have read much Python


class TagStyle(msgspec.Struct, frozen=True, kw_only=True):
    """How a format writes its tags; `{}` stands for a name."""

    first: str
    """What comes between the opening marker and the first call."""
    head: str
    name_end: str
    """A regular expression for what follows the name; it matches when the name is whole."""
    after_name: str
    key: str
    key_form: str
    """A regular expression for the tags before a value, with the argument's name as a group."""
    value_end: str
    after_value: str
    closes: str
    padded: bool
    """Whether a line feed at either end of a value is not part of it."""
    separator: str | None = None


def tagged_format(name: str, found: Callable[[str], bool], marks: Marks, style: TagStyle) -> ToolFormat:
    """An entry for such a format."""

    def read(section: str, tools: Mapping[str, dict[str, Any]], over: bool) -> list[Read]:
        text = section if style.closes == marks.end else without_end(section, marks.end, over)
        return _read(text, style, tools, over)

    def forms(tools: Sequence[Offered], rules: LarkRules, several: bool) -> list[Form]:
        return _forms(tools, rules, marks, style, several)

    heads = () if style.separator is None else (style.head,)
    marks = msgspec.structs.replace(marks, heads=heads, inner=(*style.key.split("{}"), style.value_end))
    return ToolFormat(name=name, found=found, marks=fixed(marks), reader=read, forms=forms)


def _read(text: str, style: TagStyle, tools: Mapping[str, dict[str, Any]], over: bool) -> list[Read]:
    reads: list[Read] = []
    at = text.find(style.head)
    while at >= 0:
        ends = re.compile(style.name_end).search(text, at + len(style.head))
        if ends is None:
            return [*reads, Read(at, problem="its name has no end" if over else None)]
        name = text[at + len(style.head) : ends.start()].strip()
        read, next_at = _arguments(text, style, at, ends, name, tools.get(name, {}))
        reads.append(read)
        at = text.find(style.head, next_at) if read.whole else -1
    return reads


def _arguments(
    text: str, style: TagStyle, start: int, name_end: re.Match[str], name: str, schema: dict[str, Any]
) -> tuple[Read, int]:
    """The call that begins at `start`, and where it ends."""
    if not name:
        return Read(start, problem="it names no tool"), len(text)
    arguments: dict[str, Any] = {}
    key_form, at = re.compile(style.key_form), name_end.end()
    while True:
        key, end = key_form.search(text, at), text.find(style.closes, at)
        if end >= 0 and (key is None or end < key.start()):
            return Read(start, name, arguments, True), end + len(style.closes)
        if key is None:
            return Read(start, name, arguments or None), len(text)
        argument = key[1].strip()
        value_end = text.find(style.value_end, key.end())
        value = text[key.end() :] if value_end < 0 else text[key.end() : value_end]
        if style.padded:
            value = value.removeprefix("\n")
        about = argument_schema(schema, argument)
        if value_end < 0:
            return Read(start, name, {**arguments, **_begun(argument, value, about, style)} or None), len(text)
        arguments[argument] = _typed(value.removesuffix("\n") if style.padded else value, about)
        at = value_end + len(style.value_end)


def is_plain_text(schema: dict[str, Any]) -> bool:
    """Whether any text will do."""
    return schema.get("type") == "string" and schema.keys() <= _PLAIN


def named_texts(schema: dict[str, Any]) -> list[str] | None:
    """The texts that there are to choose from, where each can stand between tags; None where it is not so."""
    texts = [schema["const"]] if "const" in schema else schema.get("enum")
    if schema.get("type", "string") != "string" or not isinstance(texts, list) or not texts:
        return None
    if not all(isinstance(text, str) and "<" not in text and text == text.strip() and text for text in texts):
        return None
    return texts if schema.keys() <= _PLAIN | {"const", "enum"} else None


def _is_text(schema: dict[str, Any] | None) -> bool:
    """Whether a value stands between its tags as it is."""
    return schema is not None and (is_plain_text(schema) or named_texts(schema) is not None)


def _typed(text: str, schema: dict[str, Any] | None) -> Any:
    if _is_text(schema):
        return text
    try:
        return json_value(text)
    except ValueError:
        return _WORDS.get(text.strip(), text)


def _begun(name: str, text: str, schema: dict[str, Any] | None, style: TagStyle) -> dict[str, Any]:
    """What is known of an argument that is being written, by its name; nothing where it may change."""
    if _is_text(schema):
        return {name: text[: len(text) - begun(text, (_padding(style) + style.value_end,))]}
    value = begun_json(text, strings=True) if text.lstrip()[:1] in ("{", "[", '"') else None
    return {} if value is None else {name: value}


def _forms(tools: Sequence[Offered], rules: LarkRules, marks: Marks, style: TagStyle, several: bool) -> list[Form]:
    end = "" if style.closes == marks.end else rules.marker(style.closes)
    calls = " | ".join(
        " ".join([literal(tool.name + style.after_name), *_argument_rules(tool, rules, style), end]) for tool in tools
    )
    call = rules.rule(calls)
    parts = [literal(style.first)] if style.first else []
    parts.append(call)
    if several and style.separator is not None:
        # One literal each: of two that begin alike the longer would have to be written out.
        parts.append(f"({literal(style.separator)} {literal(style.head)} {call})*")
    if style.separator is not None:
        parts.append(literal(style.separator))
    if marks.end:
        parts.append(rules.marker(marks.end))
    return [Form(opener, " ".join(parts)) for opener in marks.opens]


def _argument_rules(tool: Offered, rules: LarkRules, style: TagStyle) -> list[str]:
    parameters = parameters_of(tool, "between tags")
    found = []
    for name, about in parameters.named.items():
        key = rules.marker(style.key.format(name))
        value = rules.rule(f"{key} {_value(about, rules, style)} {literal(style.after_value)}")
        found.append(value if name in parameters.required else f"{value}?")
    if parameters.any_names:
        others = parameters.others
        free = _any_text(rules, style) if others is None else _value(others, rules, style)
        head, tail = map(rules.marker, style.key.split("{}"))
        found.append(f"({head} /[^<>\\n]+/ {tail} {free} {literal(style.after_value)})*")
    return found


def _padding(style: TagStyle) -> str:
    return "\n" if style.padded else ""


def _any_text(rules: LarkRules, style: TagStyle) -> str:
    """A text and its end, which is not in it without its line feed either: a reader would end it there."""
    lead = rules.terminal(without((style.value_end,), ())) if style.padded else "ANY"
    return rules.until(_padding(style) + style.value_end, lead)


def _value(schema: dict[str, Any], rules: LarkRules, style: TagStyle) -> str:
    end = _padding(style) + style.value_end
    if is_plain_text(schema):
        return _any_text(rules, style)
    if texts := named_texts(schema):
        return f"({' | '.join(literal(text) for text in texts)}) {rules.marker(end)}"
    return f"{rules.schema(schema_text(schema, **JSON_STYLE))} {rules.marker(end)}"
