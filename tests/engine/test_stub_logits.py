"""The stub's rows of logits: the best token is the one that is drawn, and the value can be read back."""

from __future__ import annotations

import numpy
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.stub_logits import row_of, token_of, value_of

VALUES = st.integers(0, (1 << 32) - 1)
SIZES = st.integers(259, 2000)


@given(VALUES, SIZES)
def test_the_best_token_of_a_row_is_the_one_that_its_value_stands_for(value: int, n_vocab: int) -> None:
    """And it is so alone."""
    row = row_of(value, n_vocab)
    assert (row.shape, row.dtype) == ((n_vocab,), numpy.dtype("f4"))
    assert row.argmax() == token_of(value)
    assert numpy.isfinite(row).all()
    assert (row == row.max()).sum() == 1


@given(VALUES, SIZES)
def test_a_row_holds_its_value(value: int, n_vocab: int) -> None:
    """All 32 bits of it, also after the way through bytes."""
    assert value_of(numpy.frombuffer(row_of(value, n_vocab).tobytes(), "f4")) == value


@given(VALUES, VALUES)
def test_other_values_have_other_rows(value: int, other: int) -> None:
    """So that logits of a wrong position are noticed."""
    assert (row_of(value, 300) == row_of(other, 300)).all() == (value == other)
