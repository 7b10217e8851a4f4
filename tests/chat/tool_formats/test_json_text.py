"""JSON that is still being written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.chat.tool_formats.json_text import begun_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def is_part(part: Any, whole: Any) -> bool:
    """Whether nothing but what is missing tells them apart; a text may be the beginning of the other."""
    if isinstance(part, str):
        return isinstance(whole, str) and whole.startswith(part)
    if isinstance(part, list):
        return isinstance(whole, list) and all(map(is_part, part, whole)) and len(part) <= len(whole)
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and is_part(one, whole[key]) for key, one in part.items())
    return type(part) is type(whole) and bool(part == whole)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), st.booleans(), st.booleans())
def test_what_is_known_does_not_change(value: dict[str, Any], ascii_: bool, strings: bool) -> None:
    """Of each beginning of an object: a number is there once it is whole, and so is a key."""
    text = json.dumps(value, ensure_ascii=ascii_)
    known: Any = {}
    for size in range(1, len(text) + 1):
        found = begun_json(text[:size], strings=strings)
        assert is_part(known, found)
        assert is_part(found, value)
        known = found
    assert known == value


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ('{"a": 12', {}),
        ('{"a": 1e5', {}),
        ('{"a": [1, 23', {"a": [1]}),
        ('{"a": 12,', {"a": 12}),
        ('{"a": "x: 12', {"a": "x: 12"}),
        ('{"a": "\\"", "b": 12', {"a": '"'}),
        ("12", None),
    ],
)
def test_a_number_that_may_go_on_is_not_known(text: str, known: object) -> None:
    """One in a text is text."""
    assert begun_json(text, strings=True) == known
