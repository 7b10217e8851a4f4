"""Calls in Python's syntax: read as Python reads its literals, whole or not, and never run."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from erllama_py.chat.tool_formats.python_text import NoCall, python_call

LITERALS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab\"'\\", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(LITERALS)
def test_values_are_those_of_python(value: Any) -> None:
    """Whatever `repr` writes is read as what it was written of."""
    text = f"f(a={value!r}, b=1)"
    assert python_call(text, 0) == ("f", {"a": value, "b": 1}, len(text))
    assert ast.literal_eval(repr(value)) == value


@given(LITERALS, st.integers(0, 200))
@example(1e16, 6)
@example([-2.5e-9], 11)
def test_what_is_cut_is_read_as_far_as_it_goes(value: Any, cut: int) -> None:
    """The beginning of a call is one too, and what is known of it only grows."""
    text = f"f(a={value!r}, b=1)"
    found = python_call(text[:cut], 0)
    assert (found.end >= 0) == (cut >= len(text))
    assert found.name in ("", "f")
    assert found.arguments.keys() <= {"a", "b"}


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("f()", {}),
        ("f( a = 1 , )", {"a": 1}),
        ("a.b-c(x='1')", {"x": "1"}),
        ("f(a=true, b=null)", {"a": True, "b": None}),
        (r"f(a='\u00e9\x41\n\'\"\/')", {"a": "éA\n'\"/"}),
        (r"f(a='\ud83d\ude00')", {"a": "😀"}),
        ("f(a=(1, 2), b=-1.5e3, c=1_000)", {"a": [1, 2], "b": -1500.0, "c": 1000}),
        ("f(a={'b': {1: [2]}})", {"a": {"b": {"1": [2]}}}),
        ("f(a=.5, b=[+1e+3, -.5E-1], c=2.)", {"a": 0.5, "b": [1000.0, -0.05], "c": 2.0}),
    ],
)
def test_forms_that_models_write_are_read(text: str, arguments: dict[str, Any]) -> None:
    """JSON's words, escapes of either language, white space; and as far as they have come."""
    assert python_call(text, 0)[1:] == (arguments, len(text))
    assert [python_call(text[:cut], 0).end for cut in range(len(text))] == [-1] * len(text)


@pytest.mark.parametrize(
    "text",
    [
        "f(1)",
        "f(a=b)",
        "f(a=g())",
        "f(a=1 b=2)",
        "f(a='x\n')",
        "1f()",
        "f[a]",
        "f(a=lambda: 1)",
        "f(a=1+1)",
        "f(a=0x1)",
    ],
)
def test_what_is_no_call_is_refused(text: str) -> None:
    """Whatever would have to be run is no value."""
    with pytest.raises(NoCall):
        python_call(text, 0)


def test_depth_and_size_are_bounded() -> None:
    """A thousand brackets are refused; a long text is read in no time."""
    with pytest.raises(NoCall, match="nest"):
        python_call(f"f(a={'[' * 1000}", 0)
    with pytest.raises(NoCall, match="too large"):
        python_call(f"f(a={'9' * 5000})", 0)
    assert len(python_call(f"f(a='{'x' * 1_000_000}')", 0).arguments["a"]) == 1_000_000
