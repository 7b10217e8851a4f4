"""Formats that write each argument between tags, a text as it is and all else as JSON. Pure.

<function=f>                          <tool_call>f
<parameter=a>                         <arg_key>a</arg_key>
1                                     <arg_value>1</arg_value>
</parameter>                          </tool_call>
</function>
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from erllama_py.chat.lark_rules import LarkRules, literal, without
from erllama_py.chat.schema import listed, schema_text
from erllama_py.chat.structure import JSON_STYLE
from erllama_py.chat.tool_formats.base import Form, Marks, Offered, Read, ToolFormat, fixed, from_first, without_end
from erllama_py.chat.tool_formats.json_text import begun_json, json_value
from erllama_py.errors import InvalidSchema

_PLAIN = frozenset({"type", "title", "description", "default", "examples", "deprecated", "$comment"})
_DEFINITIONS, _WHOLE = ("$defs", "definitions"), "_whole"
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
        return from_first(_read(text, style, tools, over), over)

    def forms(tools: Sequence[Offered], rules: LarkRules, several: bool) -> list[Form]:
        return _forms(tools, rules, marks, style, several)

    heads = () if style.separator is None else (style.head,)
    marks = msgspec.structs.replace(marks, heads=heads, inner=(*style.key.split("{}"), style.value_end))
    return ToolFormat(name=name, found=found, marks=fixed(marks), read=read, forms=forms)


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
            known = _begun(value, about, style)
            return Read(start, name, {**arguments, **known(argument)} or None), len(text)
        arguments[argument] = _typed(value.removesuffix("\n") if style.padded else value, about)
        at = value_end + len(style.value_end)


def argument_schema(schema: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The schema of one argument, as one of its own; None where it has none."""
    properties = schema.get("properties")
    found = properties.get(name) if isinstance(properties, dict) else None
    if found is None:
        found = schema.get("additionalProperties")
    if not isinstance(found, dict):
        return None
    return {**found, **{key: schema[key] for key in _DEFINITIONS if key in schema}}


def referring_to_definitions(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with all its references leading to definitions, so that those of one argument can stand alone."""
    changed: dict[str, Any] = _referring(schema)
    if changed != schema:
        root = {key: value for key, value in changed.items() if key not in (*_DEFINITIONS, "x-guidance")}
        changed["$defs"] = {**changed.get("$defs", {}), _WHOLE: root}
    return changed


def _referring(value: Any) -> Any:
    if isinstance(value, list):
        return [_referring(one) for one in value]
    if not isinstance(value, dict):
        return value
    changed = {key: _referring(one) for key, one in value.items()}
    reference = value.get("$ref")
    if isinstance(reference, str) and not reference.startswith(("#/$defs/", "#/definitions/")):
        changed["$ref"] = f"#/$defs/{_WHOLE}{reference.removeprefix('#')}"
    return changed


def is_plain_text(schema: dict[str, Any]) -> bool:
    """Whether any text will do."""
    return schema.get("type") == "string" and schema.keys() <= _PLAIN | {"$defs", "definitions"}


def named_texts(schema: dict[str, Any]) -> list[str] | None:
    """The texts that there are to choose from, where each can stand between tags; None where it is not so."""
    texts = [schema["const"]] if "const" in schema else schema.get("enum")
    if schema.get("type", "string") != "string" or not isinstance(texts, list) or not texts:
        return None
    if not all(isinstance(text, str) and "<" not in text and text == text.strip() and text for text in texts):
        return None
    return texts if schema.keys() <= _PLAIN | {"const", "enum", "$defs", "definitions"} else None


def _typed(text: str, schema: dict[str, Any] | None) -> Any:
    if schema is not None and (is_plain_text(schema) or named_texts(schema) is not None):
        return text
    try:
        return json_value(text)
    except ValueError:
        return _WORDS.get(text.strip(), text)


def _begun(text: str, schema: dict[str, Any] | None, style: TagStyle) -> Callable[[str], dict[str, Any]]:
    """What is known of a value that is being written, by the argument's name; nothing where it may change."""
    if schema is not None and (is_plain_text(schema) or named_texts(schema) is not None):
        end = f"\n{style.value_end}" if style.padded else style.value_end
        held = next((size for size in range(min(len(end), len(text)), 0, -1) if end.startswith(text[-size:])), 0)
        return lambda name: {name: text[: len(text) - held]}
    value = begun_json(text, strings=True) if text.lstrip()[:1] in ("{", "[", '"') else None
    return lambda name: {} if value is None else {name: value}


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
    parameters = referring_to_definitions(json.loads(tool.schema))
    properties, required = parameters.get("properties", {}), listed(parameters, "required")
    check_simple(tool, "between tags")
    found = []
    for name in properties:
        about = argument_schema(parameters, name) or {}
        key = rules.marker(style.key.format(name))
        value = rules.rule(f"{key} {_value(about, rules, style)} {literal(style.after_value)}")
        found.append(value if name in required else f"{value}?")
    if not properties and parameters.get("additionalProperties", True) is not False:
        others = argument_schema(parameters, "")
        free = _any_text(rules, style) if others is None else _value(others, rules, style)
        head, tail = map(rules.marker, style.key.split("{}"))
        found.append(f"({head} /[^<>\\n]+/ {tail} {free} {literal(style.after_value)})*")
    return found


def check_simple(tool: Offered, how: str) -> None:
    """Raises `InvalidSchema` where the arguments cannot be told one by one."""
    for keyword in ("$ref", "anyOf", "oneOf", "allOf", "patternProperties", "minProperties", "maxProperties"):
        if keyword in tool.parameters:
            raise InvalidSchema(f"this model writes arguments {how}, one by one: no {keyword} at the top", keyword)


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
