"""Arguments of calls as text that only grows."""

from __future__ import annotations

import json
from typing import Any

import jiter
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.serve.core.arguments import GrowingArguments, arguments_text

TEXTS = st.text(max_size=12)
LEAVES = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    LEAVES | TEXTS, lambda of: st.lists(of, max_size=3) | st.dictionaries(TEXTS, of, max_size=3), max_leaves=8
)
ARGUMENTS = st.dictionaries(TEXTS, VALUES, max_size=4)


def known(text: str) -> dict[str, Any]:
    """What a reader of begun JSON knows of it, as the library's own does."""
    if text[-1:].isdigit():
        text = text.rstrip("0123456789.eE+-")
    value = jiter.from_json(text.encode(), partial_mode="trailing-strings", cache_mode="none") if text else {}
    return value if isinstance(value, dict) else {}


@pytest.mark.slow
@given(ARGUMENTS, st.booleans())
def test_the_pieces_are_the_text(arguments: dict[str, Any], ascii_alone: bool) -> None:
    """Whatever the arguments are, and however the model escapes them: to the letter, and none is taken back."""
    written = json.dumps(arguments, ensure_ascii=ascii_alone)
    growing, pieces = GrowingArguments(), []
    for size in range(1, len(written) + 1):
        try:
            pieces.append(growing.grow(known(written[:size])))
        except ValueError:  # half of an escaped pair of surrogates
            continue
    pieces.append(growing.end(arguments))
    assert "".join(pieces) == arguments_text(arguments)
    assert json.loads("".join(pieces)) == arguments


@given(ARGUMENTS, st.lists(ARGUMENTS, max_size=3))
def test_what_is_taken_back_does_not_spoil_the_text(arguments: dict[str, Any], before: list[dict[str, Any]]) -> None:
    """A value that changes on its way: the whole still reads as the complete call, names of it that stay apart."""
    growing = GrowingArguments()
    text = "".join(growing.grow(one) for one in before) + growing.end(arguments)
    read = json.loads(text)
    assert {name: read[name] for name in arguments} == arguments


@pytest.mark.parametrize(
    ("known", "pieces"),
    [
        ([{}], ["{", "}"]),
        ([{"a": "x "}, {"a": "x y"}], ['{"a": "x', " y", '"}']),
        ([{"a": "x\n"}, {"a": "x"}], ['{"a": "x', "", '"}']),
        ([{"a": [1]}, {"a": [1, {"b": "c"}]}], ['{"a": [1', ', {"b": "c', '"}]}']),
        ([{"a": True}], ['{"a": true', "}"]),
        ([{"a": "x"}, {"a": "y"}], ['{"a": "x', "", '", "a": "y"}']),
    ],
)
def test_pieces(known: list[dict[str, Any]], pieces: list[str]) -> None:
    """A few by hand; white space at the end of a text waits, since it may be dropped."""
    growing = GrowingArguments()
    assert [*map(growing.grow, known), growing.end(known[-1])] == pieces
