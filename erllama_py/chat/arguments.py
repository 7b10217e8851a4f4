"""Whether the arguments of a call obey the schema of its tool. Pure.

For calls that no grammar has held: a format's own reader, a tool that is not strict, a call that was cut. It knows the
keywords that grammars know; a keyword that it does not know holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any
from urllib.parse import unquote

from erllama_py.chat.schema import listed
from erllama_py.errors.shown import shown

MOST_NESTED = 200
MOST_CHECKS = 100_000  # some tenths of a second; what comes after that is taken to obey
_TYPES: dict[str, tuple[type, ...]] = {
    "array": (list,), "boolean": (bool,), "integer": (int, float), "null": (type(None),), "number": (int, float),
    "object": (dict,), "string": (str,),
}  # fmt: skip


class _Root:
    """The whole schema, and how often parts of it may still be looked at: what refers to itself twice never ends."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self.schema, self.left = schema, MOST_CHECKS


class _Wrong(Exception):
    """A value does not obey; the text says which, and what is wrong."""


def problem_of(arguments: dict[str, Any], schema: dict[str, Any]) -> str | None:
    """Why they do not obey it; None where they do."""
    try:
        _check(arguments, schema, "", _Root(schema), 0)
    except _Wrong as wrong:
        return str(wrong)
    return None


def _fail(where: str, problem: str) -> None:
    raise _Wrong(f"the argument {where}: {problem}" if where else problem)


def _check(value: Any, schema: Any, where: str, root: _Root, depth: int) -> None:
    if schema is False:
        _fail(where, "there is none of this name" if where else "nothing is allowed")
    if not isinstance(schema, dict) or depth > MOST_NESTED or root.left <= 0:
        return
    root.left -= 1
    if "$ref" in schema and (found := _target(root, schema["$ref"])) is not None:
        _check(value, found, where, root, depth + 1)
    _check_type(value, schema, where)
    _check_choices(value, schema, where)
    _check_combined(value, schema, where, root, depth)
    match value:
        case dict():
            _check_object(value, schema, where, root, depth)
        case list():
            _check_list(value, schema, where, root, depth)
        case str():
            _check_text(value, schema, where)
        case int() | float() if not isinstance(value, bool):
            _check_number(value, schema, where)


def _target(root: _Root, reference: Any) -> Any:
    found: Any = root.schema
    for part in unquote(str(reference)).removeprefix("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(kind, (object,)))


def _check_type(value: Any, schema: dict[str, Any], where: str) -> None:
    kinds = schema.get("type")
    given = [kinds] if isinstance(kinds, str) else kinds
    if isinstance(given, list) and not any(_is(value, str(kind)) for kind in given):
        _fail(where, f"{' or '.join(map(str, given))} is expected, got {shown(value)}")


def _equal(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _check_choices(value: Any, schema: dict[str, Any], where: str) -> None:
    choices = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(choices, list) and not any(_equal(value, one) for one in choices):
        _fail(where, f"one of {shown(choices)} is expected, got {shown(value)}")


def _check_combined(value: Any, schema: dict[str, Any], where: str, root: _Root, depth: int) -> None:
    for one in listed(schema, "allOf"):
        _check(value, one, where, root, depth + 1)
    for keyword in ("anyOf", "oneOf"):
        cases = schema.get(keyword)
        if isinstance(cases, list) and not any(_obeys(value, one, root, depth + 1) for one in cases):
            _fail(where, f"{shown(value)} is none of the cases of {keyword}")


def _obeys(value: Any, schema: Any, root: _Root, depth: int) -> bool:
    try:
        _check(value, schema, "", root, depth)
    except _Wrong:
        return False
    return True


def _check_object(value: dict[str, Any], schema: dict[str, Any], where: str, root: _Root, depth: int) -> None:
    named = schema.get("properties")
    named = named if isinstance(named, dict) else {}
    for name in listed(schema, "required"):
        if isinstance(name, str) and name not in value:
            _fail(f"{where}.{name}".lstrip("."), "it is missing")
    patterns = schema.get("patternProperties")
    for name, one in value.items():
        place, known = f"{where}.{name}".lstrip("."), name in named
        if known:
            _check(one, named[name], place, root, depth + 1)
        for pattern, about in patterns.items() if isinstance(patterns, dict) else ():
            if _searches(pattern, name):
                known = True
                _check(one, about, place, root, depth + 1)
        if not known:
            _check(one, schema.get("additionalProperties", True), place, root, depth + 1)
    _check_size(len(value), schema, "Properties", where)


def _check_list(value: list[Any], schema: dict[str, Any], where: str, root: _Root, depth: int) -> None:
    first = schema.get("prefixItems")
    first = first if isinstance(first, list) else []
    for index, one in enumerate(value):
        about = first[index] if index < len(first) else schema.get("items", True)
        _check(one, about, f"{where}[{index}]", root, depth + 1)
    _check_size(len(value), schema, "Items", where)


def _check_text(value: str, schema: dict[str, Any], where: str) -> None:
    _check_size(len(value), schema, "Length", where)
    if "pattern" in schema and not _searches(schema["pattern"], value):
        _fail(where, f"{shown(value)} does not match {schema['pattern']!r}")


def _searches(pattern: Any, text: str) -> bool:
    """Whether a pattern is in a text. What could take long to search for is taken to be: Python's matcher has no
    bound."""
    if not isinstance(pattern, str) or len(text) > 200 or re.search(r"[*+}]\)?[^|]*\)[*+{]", pattern):
        return True
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return True


def _check_size(size: int, schema: dict[str, Any], of: str, where: str) -> None:
    least, most = schema.get(f"min{of}"), schema.get(f"max{of}")
    if isinstance(least, int) and size < least:
        _fail(where, f"it is shorter than {least}")
    if isinstance(most, int) and size > most:
        _fail(where, f"it is longer than {most}")


_BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "minimum": (lambda value, bound: value >= bound, "at least"),
    "maximum": (lambda value, bound: value <= bound, "at most"),
    "exclusiveMinimum": (lambda value, bound: value > bound, "more than"),
    "exclusiveMaximum": (lambda value, bound: value < bound, "less than"),
}


def _check_number(value: float, schema: dict[str, Any], where: str) -> None:
    for keyword, (holds, words) in _BOUNDS.items():
        bound = schema.get(keyword)
        if isinstance(bound, int | float) and not isinstance(bound, bool) and not holds(value, bound):
            _fail(where, f"{words} {bound} is expected, got {shown(value)}")
    step = schema.get("multipleOf")
    counts = isinstance(step, int | float) and not isinstance(step, bool) and step > 0 and math.isfinite(value)
    if counts and Fraction(str(value)) % Fraction(str(step)):
        _fail(where, f"a multiple of {step} is expected, got {shown(value)}")
