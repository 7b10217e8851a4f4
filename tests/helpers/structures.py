"""Structures as the engine takes them: grammars in llguidance's own form, without the door that makes them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from llguidance import LLMatcher


def lark(text: str) -> str:
    """A grammar in Lark."""
    return LLMatcher.grammar_from_lark(text)


def regex(text: str) -> str:
    """What matches as a whole."""
    return LLMatcher.grammar_from_regex(text)


def schema(of: dict[str, Any]) -> str:
    """JSON of a schema, without spaces between its parts."""
    return LLMatcher.grammar_from_json_schema(of, overrides={"whitespace_flexible": False})


ENDLESS = lark("start: /[a-z ]+/ start")  # replies of random weights end anywhere without it


@st.composite
def schemas(draw: st.DrawFn, depth: int = 2) -> dict[str, Any]:
    """Schemas of mixed features, whose replies are short."""
    leaves = [
        st.builds(lambda most: {"type": "string", "maxLength": most}, st.integers(0, 6)),
        st.just({"type": "integer", "minimum": -20, "maximum": 300}),
        st.just({"type": "boolean"}),
        st.just({"type": "null"}),
        st.builds(lambda texts: {"enum": texts}, st.lists(st.sampled_from(CHOICES), min_size=1, unique=True)),
        st.just({"type": "string", "pattern": "^[a-z]{2}-[0-9]{2}$"}),
    ]
    kinds = st.one_of(leaves)
    if depth:
        inner = schemas(depth - 1)
        lists = st.builds(lambda of, most: {"type": "array", "items": of, "maxItems": most}, inner, st.integers(1, 2))
        objects = st.dictionaries(st.sampled_from(NAMES), inner, min_size=1, max_size=4).flatmap(_object)
        kinds = st.one_of(*leaves, lists, objects, objects)
    return draw(kinds)


def _object(properties: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    required = st.lists(st.sampled_from([*properties]), unique=True)
    return required.map(lambda names: {
        "type": "object", "properties": properties, "required": names, "additionalProperties": False,
    })  # fmt: skip


CHOICES = ["alpha", "alpha-centauri", "beta", "be", "日本", 'a "quoted" one', 7, None, "x" * 40]
NAMES = ["id", "full_name", "a key of several words", "naïve", "x", "the_name_of_the_responsible_person"]
