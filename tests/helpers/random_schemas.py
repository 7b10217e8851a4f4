"""JSON schemas by chance, each with an answer: what a generator of seeded luck puts together can be fulfilled."""

from __future__ import annotations

import random
from typing import Any

Schema = dict[str, Any]

NAMES = ("name", "age", "city", "tags", "price", "kind", "note", "when", "id", "parent", "score", "items")
WORDS = ("red", "green", "blue", "small", "large", "yes", "no", "Paris", "Ghent", 'quo"te', "new\nline", "日本")
PATTERNS = ("^[a-z]{2,8}$", "^[A-Z]{2}-[0-9]{3}$", "^(cat|dog|bird)s?$", "[0-9]{2}", "^\\d{4}$", "^.{1,5}$")
FORMATS = ("date", "time", "date-time", "ipv4", "uuid", "email", "hostname")
REFUSED = frozenset({"not", "uniqueItems", "if", "contains", "propertyNames", "dependentRequired"})


def random_schema(luck: random.Random) -> Schema:
    """A schema of mixed features, three deep; now and then with a keyword that no grammar holds."""
    schema = _object(luck, 3) if luck.random() < 0.8 else _any(luck, 3)
    if luck.random() < 0.3:
        schema = {"$defs": {"thing": _any(luck, 1)}, "type": "object", "required": ["first"],
                  "properties": {"first": {"$ref": "#/$defs/thing"}, "second": {"$ref": "#/$defs/thing"},
                                 "rest": schema}}  # fmt: skip
    if luck.random() < 0.05:
        schema[luck.choice(sorted(REFUSED))] = {}
    return schema


def _any(luck: random.Random, depth: int) -> Schema:
    deep = (_object, _array, _either) if depth > 0 else ()
    made: Schema = luck.choice((_text, _text, _number, _constant, _word, *deep, *deep))(luck, depth)
    return made


def _object(luck: random.Random, depth: int) -> Schema:
    names = luck.sample(NAMES, luck.randint(1, 4))
    schema: Schema = {"type": "object", "properties": {name: _any(luck, depth - 1) for name in names}}
    schema["required"] = [name for name in names if luck.random() < 0.7]
    match luck.randrange(8):
        case 0:
            schema["additionalProperties"] = False
        case 1:
            schema |= {"properties": {}, "required": [], "additionalProperties": _text(luck, 0), "maxProperties": 2}
        case 2:
            schema |= {"patternProperties": {"^x_[a-z]{1,3}$": _number(luck, 0)}, "additionalProperties": False}
        case 3:
            schema["title"], schema["description"], schema["default"] = "A thing", "It is one.", {}
    return schema


def _array(luck: random.Random, depth: int) -> Schema:
    least = luck.randint(0, 2)
    schema: Schema = {"type": "array", "items": _any(luck, depth - 1), "minItems": least}
    schema["maxItems"] = least + luck.randint(0, 2)
    if luck.random() < 0.2:
        schema |= {"prefixItems": [_any(luck, 0), _any(luck, 0)], "items": False, "minItems": 2, "maxItems": 2}
    return schema


def _either(luck: random.Random, depth: int) -> Schema:
    if luck.random() < 0.3:
        kinds = luck.sample(("cat", "dog", "bird"), 2)
        return {"oneOf": [
            {"type": "object", "properties": {"kind": {"const": kind}, "legs": _number(luck, 0)}, "required": ["kind"]}
            for kind in kinds
        ]}  # fmt: skip
    return {"anyOf": [_any(luck, depth - 1) for _ in range(luck.randint(1, 3))]}


def _text(luck: random.Random, depth: int) -> Schema:
    match luck.randrange(4):
        case 0:
            return {"type": "string", "pattern": luck.choice(PATTERNS), "maxLength": 12}
        case 1:
            return {"type": "string", "format": luck.choice(FORMATS)}
        case 2:
            least = luck.randint(0, 5)
            return {"type": "string", "minLength": least, "maxLength": least + luck.randint(0, 10)}
        case _:
            return {"type": luck.choice(("string", ["string", "null"])), "maxLength": 20}


def _number(luck: random.Random, depth: int) -> Schema:
    low, high = sorted(luck.sample(range(-1000, 1000), 2))
    match luck.randrange(5):
        case 0:
            return {"type": "integer", "minimum": low, "maximum": high}
        case 1:
            return {"type": "number", "exclusiveMinimum": low, "maximum": high + 0.5}
        case 2:
            return {"type": "integer", "multipleOf": luck.choice((2, 5, 10)), "minimum": 0, "maximum": 1000}
        case 3:
            return {"type": ["integer", "null"], "minimum": 0, "exclusiveMaximum": 100}
        case _:
            return {"type": "boolean"}


def _constant(luck: random.Random, depth: int) -> Schema:
    return {"const": luck.choice((1, -2.5, None, True, "one", 'a "b"\\', [1, "x"], {"a": {"b": []}}))}


def _word(luck: random.Random, depth: int) -> Schema:
    return {"enum": luck.sample([*WORDS, 1, 2.5, None, False], luck.randint(1, 5))}
