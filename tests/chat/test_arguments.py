"""Whether arguments obey a schema: the same verdicts as another validator's."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from helpers.followed import follow_by_chance
from helpers.random_schemas import REFUSED, random_schema
from helpers.valid import problem

from erllama_py.chat.arguments import problem_of

TABLE: list[tuple[dict[str, Any], dict[str, Any], str | None]] = [
    ({}, {"a": 1}, None),
    ({"required": ["a"]}, {}, "the argument a: it is missing"),
    ({"properties": {"a": {"type": "integer"}}}, {"a": "1"}, "the argument a: integer is expected, got '1'"),
    ({"properties": {"a": {"type": "integer"}}}, {"a": True}, "the argument a: integer is expected, got True"),
    ({"properties": {"a": {"type": "integer"}}}, {"a": 1.0}, None),
    ({"properties": {"a": {"type": ["string", "null"]}}}, {"a": None}, None),
    ({"properties": {"a": {"enum": [1, 2]}}}, {"a": 3}, "the argument a: one of [1, 2] is expected, got 3"),
    ({"properties": {"a": {"const": 1}}}, {"a": True}, "the argument a: one of [1] is expected, got True"),
    ({"properties": {}, "additionalProperties": False}, {"a": 1}, "the argument a: there is none of this name"),
    ({"properties": {"a": {"items": {"type": "string"}}}}, {"a": ["b", 1]},
     "the argument a[1]: string is expected, got 1"),
    ({"properties": {"a": {"maxLength": 2}}}, {"a": "abc"}, "the argument a: it is longer than 2"),
    ({"properties": {"a": {"minItems": 1}}}, {"a": []}, "the argument a: it is shorter than 1"),
    ({"properties": {"a": {"maximum": 2}}}, {"a": 3}, "the argument a: at most 2 is expected, got 3"),
    ({"properties": {"a": {"multipleOf": 0.1}}}, {"a": 0.3}, None),
    ({"properties": {"a": {"multipleOf": 2}}}, {"a": 3}, "the argument a: a multiple of 2 is expected, got 3"),
    ({"properties": {"a": {"pattern": "^x"}}}, {"a": "y"}, "the argument a: 'y' does not match '^x'"),
    ({"properties": {"a": {"anyOf": [{"type": "null"}, {"type": "array"}]}}}, {"a": 1},
     "the argument a: 1 is none of the cases of anyOf"),
    ({"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"type": "null"}}}, {"a": 1},
     "the argument a: null is expected, got 1"),
    ({"properties": {"a": {"$ref": "#"}}, "required": []}, {"a": {"a": {"a": 1}}}, None),
    ({"$ref": "#"}, {"a": 1}, None),
    ({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}, {"a": 1}, None),
    ({"required": 1.5, "allOf": -1, "anyOf": {}, "properties": {"a": {"multipleOf": True}}}, {"a": 1}, None),
    ({"required": [{}], "properties": {"a": {"required": True}}}, {"a": {}}, None),
    ({"properties": {"a": {"pattern": "(x+x+)+y"}}}, {"a": "x" * 200}, None),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("schema", "arguments", "said"), TABLE, ids=range(len(TABLE)))
def test_what_is_wrong_is_said(schema: dict[str, Any], arguments: dict[str, Any], said: str | None) -> None:
    """With the place of the argument."""
    assert problem_of(arguments, schema) == said


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_verdicts_are_those_of_another_validator(seed: int) -> None:
    """Of replies that a grammar let through, and of the same with something changed in them."""
    luck, seen = random.Random(seed), {True: 0, False: 0}
    for _ in range(60):
        schema = random_schema(luck)
        if schema.keys() & REFUSED or "oneOf" in json.dumps(schema):
            continue  # `oneOf` is read as `anyOf`
        text = follow_by_chance(luck, json_schema=schema)
        value = None if text is None else json.loads(text)
        if not isinstance(value, dict):
            continue
        for one in (value, _changed(value, luck)):
            valid = problem({**schema}, json.dumps(one)) is None
            found = problem_of(one, schema)
            assert (found is None) == valid or "format" in json.dumps(schema), (schema, one, found)
            seen[valid] += 1
    assert min(seen.values()) > 5


def _changed(value: dict[str, Any], luck: random.Random) -> dict[str, Any]:
    """The same with one property gone, or with another value."""
    if not value:
        return {"odd": None}
    name, changed = luck.choice(sorted(value)), dict(value)
    if luck.random() < 0.3:
        del changed[name]
    else:
        changed[name] = luck.choice([None, 7, -1.5, "", "x" * 50, [], {}, True, [1, 2, 3]])
    return changed
