"""JSON schemas at the door: what no grammar holds is refused by its keyword, what costs too much before that."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers.followed import follows, refusal

from erllama_py.chat.schema import FORMATS, LEAST_NUMBER, MAX_DEPTH, MAX_TEXT, MAX_VALUES, UNSUPPORTED, schema_text
from erllama_py.errors import InvalidSchema


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def chained(length: int, link: dict[str, Any]) -> dict[str, Any]:
    """Definitions that each refer to the next one, by a schema that holds the reference in `properties`."""
    link_of = [json.loads(json.dumps(link).replace("NEXT", f"#/$defs/d{i + 1}")) for i in range(length)]
    definitions = {f"d{i}": one for i, one in enumerate(link_of)} | {f"d{length}": {"type": "null"}}
    return {"$defs": definitions, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    ("schema", "keyword", "path", "problem"),
    [
        ({"not": {}}, "not", "#", "no grammar"),
        ({"properties": {"a/b": {"items": {"uniqueItems": True}}}}, "uniqueItems", "#/properties/a~1b/items", ""),
        ({"$defs": {"x": {"anyOf": [{}, {"if": {}}]}}}, "if", "#/$defs/x/anyOf/1", ""),
        ({"x-guidance": {"lenient": True}}, "x-guidance", "#", ""),
        ({"$ref": "https://example.com/schema.json"}, "$ref", "#", "nothing is fetched"),
        ({"$ref": "#/foo/bar", "foo": {"bar": {}}}, "$ref", "#", "leads to no schema"),
        ({"$ref": "#name", "$defs": {"a": {"$anchor": "name"}}}, "$ref", "#", "leads to no schema"),
        ({"$ref": 3}, "$ref", "#", "not in this schema"),
        ({"items": {"$id": "x"}}, "$id", "#/items", ""),
        ({"type": "string", "format": "weird"}, "format", "#", "'weird', only for date-time"),
        ({"type": "string", "format": ["date"]}, "format", "#", "no grammar is known"),
        ({"name": "x", "strict": True, "schema": {"type": "object"}}, "schema", "#", "`response_format`"),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, "json_schema", "#", "give that alone"),
        ({"items": {"type": "strng"}}, "type", "#/items", "'strng' is none of array, boolean"),
        ({"type": ["string", "nul"]}, "type", "#", "'nul'"),
        ({"items": {"properties": {"a": {}}, "minProperties": 1}}, "minProperties", "#/items", "not required"),
        ({"const": float("nan")}, "", "#/const", "no number of JSON"),
        ({"enum": [1 << 63]}, "", "#/enum/0", "64 bits"),
        ({"const": 10**5000}, "", "#/const", "64 bits"),
        ({"type": ["integer", "string"], "format": "int64"}, "format", "#", "'int64', only for"),
        ({"format": "int64"}, "format", "#", "'int64', only for"),
        ({"const": -(1 << 63) + 1}, "", "#/const", "is less than"),
        ({"type": "integer", "allOf": [{"const": -1e19}]}, "", "#/allOf/0/const", "is less than"),
        ({"const": {1: 2}}, "", "#/const", "names of a schema are str"),
        ({"const": {1}}, "", "#/const", "set has no JSON form"),
        ({"const": "\ud800"}, "", "#/const", "lone surrogate"),
        ({"title": "x" * (MAX_TEXT + 1)}, "", "#/title", "is longer than"),
        ({"enum": ["x" * MAX_TEXT] * 9}, "", "#", "more than 65536 characters"),
        ({"enum": list(range(MAX_VALUES))}, "", "#", "more than 3000 values"),
        (nested(20_000), "", "#/items", "nests more than"),
        (chained(MAX_DEPTH, {"$ref": "NEXT"}), "$ref", "#", "deep together"),
        (chained(MAX_DEPTH // 2, {"properties": {"a": {"$ref": "NEXT"}}}), "$ref", "#", "deep together"),
        ({"items": {"multipleOf": 99_999_999}}, "multipleOf", "#/items", "more than 2500 remainders"),
        ({"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}, "multipleOf", "#/allOf/1", "remainders"),
        ({"allOf": [{"multipleOf": 1e-3}, {"multipleOf": 997}]}, "multipleOf", "#/allOf/1", "remainders"),
        ({"$defs": {"a": {"multipleOf": 0}}, "multipleOf": -10_007}, "multipleOf", "#", "remainders"),
        ([], "", "#", "a mapping, not list"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-",
)  # fmt: skip
def test_what_no_grammar_holds_is_refused_where_it_is(schema: Any, keyword: str, path: str, problem: str) -> None:
    """By the keyword's name, and the place in the schema."""
    with pytest.raises(InvalidSchema) as caught:
        schema_text(schema)
    assert (caught.value.keyword, caught.value.path[: len(path)]) == (keyword, path)
    assert problem in caught.value.problem
    assert keyword in str(caught.value)


def test_a_schema_that_holds_itself_as_an_object_is_refused() -> None:
    """It would never end."""
    schema: dict[str, Any] = {"properties": {}}
    schema["properties"]["again"] = schema
    with pytest.raises(InvalidSchema, match="nests more than"):
        schema_text(schema)


DIALECT = "https://json-schema.org/draft/2020-12/schema"
KNOWN = {
    "title": "a", "description": "a", "default": 1, "examples": [1], "$schema": DIALECT, "$comment": "a",
    "deprecated": True, "readOnly": True, "writeOnly": True, "$defs": {}, "definitions": {}, "type": "string",
    "enum": ["a"], "const": "a", "anyOf": [{}], "allOf": [{}], "oneOf": [{"type": "string"}], "properties": {},
    "patternProperties": {}, "additionalProperties": False, "required": [], "minProperties": 1, "maxProperties": 2,
    "items": {}, "prefixItems": [{}], "minItems": 1, "maxItems": 2, "minLength": 1, "maxLength": 2, "pattern": "a",
    "format": "date", "minimum": 1, "maximum": 2, "exclusiveMinimum": 0, "exclusiveMaximum": 3, "multipleOf": 1,
    "discriminator": {"propertyName": "a"}, "x-anything": 1,
}  # fmt: skip


@pytest.mark.parametrize("keyword", KNOWN)
def test_the_other_keywords_are_taken(keyword: str) -> None:
    """Each by itself."""
    assert refusal(json_schema={keyword: KNOWN[keyword]}) == ""
    assert keyword not in UNSUPPORTED


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {}}, "required": True}, {"properties": {"a": {}}, "required": None},
        {"properties": {"a": {}}, "required": [[1]]}, {"properties": {}, "allOf": 1e300},
    ],
)  # fmt: skip
def test_keywords_of_another_form_are_refused(schema: dict[str, Any]) -> None:
    """By the compiler, which says so."""
    assert refusal(json_schema=schema)


@pytest.mark.parametrize("number", [LEAST_NUMBER, 1 - LEAST_NUMBER, float(LEAST_NUMBER)])
def test_numbers_up_to_the_least_compile(number: float) -> None:
    """A little less, and the compiler would end the process."""
    for schema in ({"const": number}, {"type": "integer", "minimum": number, "maximum": number}, {"enum": [0, number]}):
        assert refusal(json_schema=schema) == ""


@pytest.mark.parametrize("kind", ["integer", "number", ["integer", "null"]])
def test_a_format_of_numbers_says_nothing(kind: Any) -> None:
    """`int64` and the like, which OpenAPI writes, are for texts no rule."""
    assert refusal(json_schema={"type": kind, "format": "int64"}) == ""


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_in_the_table_has_a_grammar(format_: str) -> None:
    """They are what the compiler knows."""
    assert refusal(json_schema={"type": "string", "format": format_}) == ""


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum (5) is greater than maximum (3)"),
        ({"enum": []}, "anyOf is empty"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "no reply can follow it"),
        ({"type": "string", "pattern": "^(?=a)b"}, "look-ahead"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf constraints"),
        ({"type": "string", "minLength": 10**9, "maxLength": 10**10}, "regex"),
        ({"properties": {f"p{i}": {} for i in range(1000)}}, "no reply can follow it"),
    ],
)
def test_what_the_compiler_refuses_says_why(schema: dict[str, Any], problem: str) -> None:
    """In its words."""
    assert problem in refusal(json_schema=schema)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}, "required": ["b"]},
         ['{"b": 1}', '{"b": 1, "a": null}'], ['{"a": null, "b": 1}', '{"b": 1, "c": 2}', '{"b":1}', '{ "b": 1}']),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "boolean"}},
         ['{"a": null, "c": true}', '{"c": true}'], ['{"c": 1}']),
        ({"type": "object"}, ['{"any": [1, {"thing": "x"}]}', "{}"], ["[]"]),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"properties": {"n": {"$ref": "#/$defs/n"}}}}},
         ['{"n": {"n": {}}}'], ['{"n": {"m": {}}}']),
        ({"allOf": [{"properties": {"a": {"type": "null"}}, "required": ["a"]},
                    {"properties": {"b": {"type": "null"}}, "required": ["b"]}]}, ['{"a": null, "b": null}'],
         ['{"a": null}']),
        ({"properties": {"a": {"type": "null"}}, "anyOf": [{"properties": {"b": {"type": "null"}}, "required": ["b"]}]},
         ['{"a": null, "b": null}'], []),
        ({"properties": {"a": {"type": "null"}}, "required": ["b"]}, ['{"a": null, "b": 1}'], ['{"a": null}']),
        ({"type": "number", "anyOf": [{"multipleOf": 0.25}, {"multipleOf": 60.0}]}, ["0.75"], ["0.7"]),
        ({"type": "integer", "multipleOf": 1000000}, ["3000000"], ["3100000"]),
        ({"type": ["string", "null"], "maxLength": 2}, ['"ab"', "null", '"日本"'], ['"abc"']),
        ({"enum": ["a", 1, None, {"k": [1.5]}]}, ['"a"', "1", "null", '{"k": [1.5]}'], ["2"]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 1}, ["[1, 2]"], ["[]", "[1,2]", "[1.5]"]),
    ],
    ids=str,
)  # fmt: skip
def test_a_reply_has_the_schemas_properties_in_their_order(
    schema: dict[str, Any], good: list[str], bad: list[str]
) -> None:
    """And no others, unless the schema says so or is a combination; whitespace is one space after a comma or colon."""
    before = json.dumps(schema)
    assert [text for text in good if not follows(text, json_schema=schema)] == []
    assert [text for text in bad if follows(text, json_schema=schema)] == []
    assert json.dumps(schema) == before
