"""JSON schemas as a grammar can hold them: checked keyword by keyword, in bounded time, before anything compiles them.

What is refused here would otherwise take long, end the process (the compiler follows references by recursion), or be
ignored. Keywords and their meaning: JSON Schema 2020-12, https://json-schema.org/draft/2020-12.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any
from urllib.parse import unquote

from erllama_py.errors import InvalidSchema

# Within these the compiler took at most 0.1 s of any schema that was tried, and less stack than `begin_thread` gives.
MAX_VALUES = 3_000  # of the whole schema: each mapping, list, text, number
MAX_CHARACTERS = 65_536  # of all its texts, keys included
MAX_TEXT = 8_192  # of one text; the time that a pattern takes grows with the square of its length
MAX_NESTED = 100  # mappings and lists in each other; the compiler takes 128
MAX_REMAINDERS = 2_500  # that `multipleOf` counts, all of a schema together; 1,000,000 take 15 s and 600 MB
LEAST_NUMBER = -(2**63) + 2**11  # near the least integer of 64 bits the compiler recurses for ever, and dies
MAX_DEPTH = 400  # schemas in each other, where a reference counts as the schema that it leads to

# Not held by a grammar. Annotations and unknown keywords change nothing and are let in, as the standard has it.
UNSUPPORTED = frozenset({
    "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "propertyNames",
    "unevaluatedProperties", "unevaluatedItems", "contains", "minContains", "maxContains", "uniqueItems",
    "contentEncoding", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "x-guidance",
})  # fmt: skip
TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
FORMATS = ("date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid")

_NAMED = ("properties", "patternProperties", "$defs", "definitions")  # keywords that hold schemas by name
_LISTED = ("anyOf", "allOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "additionalItems")
_COMBINED = frozenset({"properties", "anyOf", "allOf", "oneOf", "$ref"})
_OPEN = frozenset({"additionalProperties", "patternProperties", "minProperties"})
_WRAPPERS = ("json_schema", "schema")  # no keywords: without a word on them such a schema would allow anything
# How the compiler begins what it says of a keyword without its place; and our words where it speaks of its own options.
_SAID = (
    ("oneOf constraints", "oneOf", "its cases overlap; use anyOf, or give each a property with another `const`"),
    ("regex parse error", "pattern", ""),
)

Found = tuple[str, Any, int]  # where a schema lies, as a JSON pointer; the schema; how many it is in


def schema_text(schema: object, **guidance: object) -> str:
    """A schema as JSON, closed where it does not say otherwise, see `_close`. Raises `InvalidSchema`.

    `guidance` goes to the compiler with it.
    """
    if not isinstance(schema, dict):
        raise _wrong(f"a schema is a mapping, not {type(schema).__name__}")
    check_size(schema)
    for name in _WRAPPERS:
        if isinstance(schema.get(name), dict):
            raise _wrong("the schema is what lies in here, as in OpenAI's `response_format`: give that alone", name)
    copied: dict[str, Any] = json.loads(json.dumps(schema))  # the caller's own is left as it is
    _close(check_schemas(copied))
    return json.dumps({**copied, "x-guidance": guidance}, ensure_ascii=False)


def check_schemas(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The schema and all those in it, of a size that `check_size` lets in. Raises `InvalidSchema`."""
    places = list(_schemas(schema))
    known = {path for path, _, _ in places}
    found = [(path, one) for path, one, _ in places if isinstance(one, dict)]
    for path, one in found:
        _check_keywords(one, path, known)
    _check_depth(found)
    _check_multiples(found)
    return [one for _, one in found]


def schemas_in(schema: object) -> list[dict[str, Any]]:
    """A schema, of a size that `check_size` lets in, and all those in it; not those that are no mappings."""
    return [one for _, one, _ in _schemas(schema) if isinstance(one, dict)]


def check_named(schema: dict[str, Any]) -> None:
    """Hold an object's own keywords against the standard, for who goes by them. Raises `InvalidSchema`."""
    for keyword, kind, words in (("properties", dict, "a mapping"), ("required", list, "a list")):
        found = schema.get(keyword, kind())
        if not isinstance(found, kind):
            raise _wrong(f"{words} is expected, not {type(found).__name__}", keyword)


def listed(schema: dict[str, Any], keyword: str) -> list[Any]:
    """What a keyword lists; nothing where it has no list, which the compiler refuses where it matters."""
    found = schema.get(keyword)
    return found if isinstance(found, list) else []


def with_references(value: Any, change: Callable[[str], str]) -> Any:
    """A schema, or what is in one, with each of its references changed. The recursion is bounded by `MAX_NESTED`."""
    if isinstance(value, list):
        return [with_references(one, change) for one in value]
    if not isinstance(value, dict):
        return value
    changed = {key: with_references(one, change) for key, one in value.items()}
    if isinstance(reference := value.get("$ref"), str):
        changed["$ref"] = change(reference)
    return changed


def check_size(value: object) -> int:
    """How many values there are. Refuses what is no JSON, or too much of it. Raises `InvalidSchema`."""
    values = characters = 0
    open_: list[tuple[object, str, int]] = [(value, "#", 0)]
    while open_:
        one, path, depth = open_.pop()
        values += 1
        if values > MAX_VALUES:
            raise _wrong(f"the schema has more than {MAX_VALUES} values")
        if depth > MAX_NESTED:
            raise _wrong(f"the schema nests more than {MAX_NESTED} mappings and lists", path=path)
        if isinstance(one, dict):
            characters += sum(_length(key, path) for key in one)
            open_ += [(below, f"{path}/{key}", depth + 1) for key, below in one.items()]
        elif isinstance(one, list | tuple):
            open_ += [(below, f"{path}/{index}", depth + 1) for index, below in enumerate(one[: MAX_VALUES + 1])]
        else:
            characters += _length(one, path) if isinstance(one, str) else 0
            _check_number(one, path)
        if characters > MAX_CHARACTERS:
            raise _wrong(f"the schema has more than {MAX_CHARACTERS} characters")
    return values


def _length(text: object, path: str) -> int:
    if not isinstance(text, str):
        raise _wrong(f"the names of a schema are str, not {type(text).__name__}", path=path)
    if len(text) > MAX_TEXT:
        raise _wrong(f"a text of {len(text)} characters is longer than {MAX_TEXT}", path=path)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise _wrong("a text has no UTF-8 form: it holds a lone surrogate", path=path) from None


def _check_number(value: object, path: str) -> None:
    if isinstance(value, int) and value.bit_length() > 63:
        raise _wrong("an integer has more than 64 bits", path=path)
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong(f"{value} is no number of JSON", path=path)
    if isinstance(value, int | float) and value < LEAST_NUMBER:
        raise _wrong(f"{value} is less than {LEAST_NUMBER}", path=path)
    if not isinstance(value, str | int | float | None):
        raise _wrong(f"{type(value).__name__} has no JSON form", path=path)


def _schemas(schema: object, path: str = "#", level: int = 0) -> Iterator[Found]:
    """A schema and all those in it, outermost first. The recursion is bounded by `MAX_NESTED`."""
    yield path, schema, level
    for keyword, value in schema.items() if isinstance(schema, dict) else ():
        if keyword in _NAMED and isinstance(value, dict):
            for name, below in value.items():
                yield from _schemas(below, f"{path}/{keyword}/{_escaped(name)}", level + 1)
        elif keyword in _LISTED and isinstance(value, list):
            for index, below in enumerate(value):
                yield from _schemas(below, f"{path}/{keyword}/{index}", level + 1)
        elif keyword in _SINGLE and isinstance(value, dict | bool):
            yield from _schemas(value, f"{path}/{keyword}", level + 1)


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")  # RFC 6901, section 3


def _check_keywords(schema: dict[str, Any], path: str, known: set[str]) -> None:
    for keyword in schema:
        if keyword in UNSUPPORTED:
            raise _wrong("no grammar holds this keyword", keyword, path)
    kinds = schema.get("type", "string")
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in TYPES:
            raise _wrong(f"{kind!r} is none of {', '.join(TYPES)}", "type", path)
    named = schema.get("properties")
    if isinstance(named, dict) and not named.keys() <= {*map(str, listed(schema, "required"))}:
        for keyword in ("minProperties", "maxProperties"):
            if keyword in schema:
                raise _wrong("no grammar counts properties that are not required", keyword, path)
    if "$id" in schema and path != "#":
        raise _wrong("a schema in another has no address of its own", "$id", path)
    reference = schema.get("$ref", "#")
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise _wrong(f"{reference!r} is not in this schema, and nothing is fetched", "$ref", path)
    if unquote(reference) not in known:
        raise _wrong(f"{reference!r} leads to no schema in this one", "$ref", path)
    is_text = "string" in (kinds if isinstance(kinds, list) else [kinds])  # of other types formats say nothing here
    if is_text and (format_ := schema.get("format")) is not None and format_ not in FORMATS:
        raise _wrong(f"no grammar is known for {format_!r}, only for {', '.join(FORMATS)}", "format", path)


def _check_multiples(found: list[tuple[str, dict[str, Any]]]) -> None:
    """Bound the states of the lexer, which counts remainders: of all numbers together, where schemas are combined."""
    given = [(path, Fraction(str(one["multipleOf"]))) for path, one in found if _is_number(one.get("multipleOf"))]
    scale = math.lcm(*(one.denominator for _, one in given))
    states = 1
    for path, one in given:
        states = math.lcm(states, int(one * scale) or 1)  # zero is refused by the compiler
        if states > MAX_REMAINDERS and str(states).strip("0") != "1":
            raise _wrong(f"with those before, more than {MAX_REMAINDERS} remainders to count", "multipleOf", path)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_depth(found: list[tuple[str, dict[str, Any]]]) -> None:
    """Bound the compiler's recursion: it enters each schema that a reference leads to once, and goes to its depth."""
    targets = {unquote(one["$ref"]) for _, one in found if "$ref" in one}
    if sum(_depth(one) for path, one in found if path in targets or path == "#") > MAX_DEPTH:
        raise _wrong(f"the schema and those that it refers to are more than {MAX_DEPTH} deep together", "$ref")


def _depth(schema: dict[str, Any]) -> int:
    named = ("#/$defs/", "#/definitions/")  # entered by reference alone
    return max(level for path, _, level in _schemas(schema) if not path.startswith(named)) + 1


def _close(schemas: list[dict[str, Any]]) -> None:
    """Have objects hold the properties that they name, and no others, unless the schema says `additionalProperties`.

    That narrows the schema: each reply is still valid by the caller's. Where schemas are combined, closing one could
    shut out what another asks for, and the standard's rule stands.
    """
    if any(len(_COMBINED & one.keys()) > 1 or len(listed(one, "allOf")) > 1 for one in schemas):
        return
    for one in schemas:
        named = one.get("properties")
        if isinstance(named, dict) and not _OPEN & one.keys() and named.keys() >= {*map(str, listed(one, "required"))}:
            one["additionalProperties"] = False


def refused(schema: dict[str, Any], problem: str) -> InvalidSchema:
    """What the compiler says of a schema; with the place of the keyword that it means, if there is only one."""
    keyword, ours = next(((keyword, ours) for said, keyword, ours in _SAID if problem.startswith(said)), ("", ""))
    places = [path for path, one, _ in _schemas(schema) if isinstance(one, dict) and keyword in one]
    return _wrong(ours or problem, keyword if places else "", places[0] if len(places) == 1 else "#")


def _wrong(problem: str, keyword: str = "", path: str = "#") -> InvalidSchema:
    where = "" if path == "#" else f"{path[:200]}: "
    return InvalidSchema(f"{where}{keyword and keyword + ': '}{problem}", keyword, path)
