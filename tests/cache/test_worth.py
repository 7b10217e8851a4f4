"""What makes rows worth reading: more tokens, dearer ones, fewer bytes."""

from __future__ import annotations

import pytest
from helpers.rows import meta
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.cache.messages import RowMeta
from erllama_py.cache.policy import TOKENS_IF_UNKNOWN, is_worth, token_seconds

tokens = st.integers(1, 1 << 17)
seconds = st.floats(1e-7, 1.0)
sizes = st.integers(0, 1 << 36)


@given(tokens, tokens, seconds, sizes)
def test_more_tokens_are_never_worth_less(few: int, more: int, each: float, nbytes: int) -> None:
    """Of the same rows."""
    assert is_worth(few + more, each, nbytes) >= is_worth(few, each, nbytes)


@given(tokens, seconds, seconds, sizes)
def test_dearer_tokens_are_never_worth_less(count: int, cheap: float, more: float, nbytes: int) -> None:
    """Those of a larger model, or a slower machine."""
    assert is_worth(count, cheap + more, nbytes) >= is_worth(count, cheap, nbytes)


@given(tokens, seconds, sizes, sizes)
def test_more_bytes_are_never_worth_more(count: int, each: float, nbytes: int, more: int) -> None:
    """They take longer."""
    assert is_worth(count, each, nbytes + more) <= is_worth(count, each, nbytes)


@given(tokens, sizes)
def test_where_nobody_knows_what_tokens_took_their_number_decides(count: int, nbytes: int) -> None:
    """An application may have put the rows there, and said nothing."""
    assert is_worth(count, 0.0, nbytes) == (count >= TOKENS_IF_UNKNOWN)


# what it is, seconds a token, bytes of a row of 256 tokens, how many tokens make it worth reading
MODELS = [
    ("SmolLM2 on two CPUs", 0.0035, 5_900_000, 1),
    ("Gemma 3 270M on two CPUs", 0.0025, 4_700_000, 2),
    ("8 billion parameters on an H200", 0.0001, 33_500_000, 171),
    ("random weights, 64 wide, on one CPU", 0.00017, 130_000, 3),
    ("a stub", 0.000001, 3_000, 16),
]


@pytest.mark.parametrize(("each", "nbytes", "least"), [row[1:] for row in MODELS], ids=[row[0] for row in MODELS])
def test_known_models_read_a_row_for_so_many_tokens(each: float, nbytes: int, least: int) -> None:
    """A last token on a CPU; most of a row where a token takes a tenth of a millisecond."""
    assert next(count for count in range(1, 257) if is_worth(count, each, nbytes)) == least


def test_the_seconds_a_token_are_those_of_all_rows_together() -> None:
    """And none where there is nothing."""
    story = list(range(100))
    rows = [meta(story, 0, 20, prefill_seconds=2.0), meta(story, 20, 100, prefill_seconds=3.0)]
    assert token_seconds(rows) == 0.05
    assert token_seconds([]) == 0.0


@given(
    st.lists(st.tuples(st.integers(1, 500), st.floats(1e-6, 10.0)), max_size=5),
    st.lists(st.tuples(st.integers(1, 10_000), st.sampled_from([0.0, -1.0])), max_size=5),
)
def test_rows_of_which_nobody_knows_make_no_others_cheaper(
    known: list[tuple[int, float]], unknown: list[tuple[int, float]]
) -> None:
    """Those that an application has put before the model's own: nobody said that they took no time."""

    def rows(spans: list[tuple[int, float]]) -> list[RowMeta]:
        return [meta(list(range(tokens)), 0, tokens, prefill_seconds=seconds) for tokens, seconds in spans]

    assert token_seconds([*rows(unknown), *rows(known)]) == token_seconds(rows(known))
