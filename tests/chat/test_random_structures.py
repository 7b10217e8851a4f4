"""Structures by chance: every reply that a grammar lets through is valid, and whatever is given is an error or runs."""

from __future__ import annotations

import random
from typing import Any

import pytest
from helpers.followed import BYTES, follow_by_chance, refusal
from helpers.hostile import HOSTILE
from helpers.random_schemas import REFUSED, random_schema
from helpers.valid import problem
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.chat.structure import structure_text
from erllama_py.engine.structure import compile
from erllama_py.errors import InvalidSchema


@pytest.mark.slow
@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.slow] if n else []) for n in range(20)])
def test_replies_to_random_schemas_are_valid_by_another_validator(seed: int) -> None:
    """100 schemas a seed, each followed by random bytes; refused is one by its keyword alone."""
    luck, finished = random.Random(seed), 0
    for _ in range(100):
        schema = random_schema(luck)
        keywords, text = sorted(schema.keys() & REFUSED), None
        if keywords:
            with pytest.raises(InvalidSchema) as caught:
                follow_by_chance(luck, json_schema=schema)
            assert [caught.value.keyword] == keywords
        else:
            text = follow_by_chance(luck, json_schema=schema)
        if text is not None:
            finished += 1
            assert problem(schema, text) is None
    assert finished > 80


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYWORDS = st.sampled_from(
    ("type", "properties", "required", "items", "anyOf", "allOf", "oneOf", "enum", "const", "$ref", "$defs", "pattern",
     "minLength", "maxLength", "minimum", "maximum", "multipleOf", "format", "minItems", "maxItems", "prefixItems",
     "additionalProperties", "patternProperties", "minProperties", "maxProperties", "not", "if", "$id", "x-guidance")
)  # fmt: skip
VALUES = JSON | st.sampled_from(
    ("object", "array", "string", "integer", ["string", "null"], "#", "#/$defs/a", "#/properties/a", "^a{3,900}(b|c)*$",
     "(x+x+)+y", 10**6, 0, -1, 1e308, "date")
)  # fmt: skip
SCHEMAS = st.recursive(
    st.dictionaries(KEYWORDS, VALUES, max_size=3),
    lambda inner: st.dictionaries(
        KEYWORDS, VALUES | inner | st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
PIECES = st.sampled_from(
    ("root", " ::= ", "start", ": ", "a", "b", "\n", " ", "|", "(", ")", "*", "+", "?", "{1,3}", "{0,}", '"x"', '""',
     "[a-z]", "[^\\x00-\\x1f]", ".", "/[a-z]*/", "/.{3,}/", "<[1]>", "<|end|>", "!", "%json {}", "%ignore ", "#", "//",
     "\\", '"', "[", "]", "{", "&", "~", "A", "[lazy]", "[max_tokens=3]", "::", "\0", "é", "%llguidance {}\n")
)  # fmt: skip
REGEX = st.lists(
    st.sampled_from(
        ("a", "b", ".", "*", "+", "?", "{1,10000}", "{3}", "(", ")", "|", "[a-z]", "[^a]", "\\d", "\\w", "\\b", "^",
         "$", "(?i)", "(?s:.)", "\\", "/", "\n", "é", "\\p{L}", "&", "~", "\0")
    ), max_size=12,
)  # fmt: skip


def outcome(**structure: Any) -> None:
    """A refusal, or a walk that ends, is over or fails as one request."""
    if not refusal(**structure):
        follow_by_chance(random.Random(0), most=40, **structure)


@given(SCHEMAS)
def test_any_schema_is_refused_or_runs(schema: dict[str, Any]) -> None:
    """Also one of values that are no schemas."""
    outcome(json_schema=schema)


@given(st.lists(PIECES, max_size=30).map("".join), st.booleans())
def test_any_grammar_is_refused_or_runs(rest: str, is_gbnf: bool) -> None:
    """In either form."""
    outcome(grammar=("root ::= " if is_gbnf else "start: ") + rest)


@given(REGEX.map("".join))
def test_any_expression_is_refused_or_runs(regex: str) -> None:
    """Also what is no expression at all."""
    outcome(regex=regex)


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), min_size=1, max_size=20))
def test_a_choice_is_one_of_its_texts(choice: list[str]) -> None:
    """Whatever characters they have."""
    assert follow_by_chance(random.Random(0), choice=choice) in choice


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_structures_are_refused_or_run(name: str) -> None:
    """As any other."""
    outcome(**HOSTILE[name])


def test_compiled_grammars_are_found_by_the_engine() -> None:
    """The text is the same for the same structure, and so nothing is compiled twice."""
    text = structure_text(json_schema={"type": "integer", "minimum": 3})
    assert text is not None
    assert refusal(json_schema={"type": "integer", "minimum": 3}) == ""
    assert BYTES.structure_tokenizer().known(text) is not None
    compile(text, BYTES.structure_tokenizer())
