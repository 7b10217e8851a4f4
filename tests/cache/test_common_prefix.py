"""What two packed lists of tokens begin with alike, as comparing token by token finds it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from erllama_py.cache.keys import common_prefix, pack_tokens

tokens = st.lists(st.integers(0, 2), max_size=40)


@given(tokens, tokens)
def test_the_common_prefix_is_the_longest_one(left: list[int], right: list[int]) -> None:
    """Equal up to the length found, different after it."""
    length = common_prefix(pack_tokens(left), pack_tokens(right))
    assert left[:length] == right[:length]
    assert length == min(len(left), len(right)) or left[length] != right[length]


@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 3))
def test_long_common_prefixes_are_found_to_the_token(length: int, more: int, byte: int) -> None:
    """Wherever the slices end, and whichever byte of a token differs."""
    left, right = list(range(length + more)), list(range(length + more))
    if more:
        right[length] ^= 1 << (8 * byte)
    assert common_prefix(pack_tokens(left), pack_tokens(right)) == length
