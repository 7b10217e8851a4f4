"""Texts of a set in another text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from erllama_py.chat.finder import Finder

LETTERS = st.text("ab<>", max_size=12)


@given(st.sets(st.text("ab<>", min_size=2, max_size=5)), LETTERS)
def test_they_are_found_wherever_they_stand(texts: set[str], text: str) -> None:
    """All of them, and nothing beyond the end: a shorter text may end there where a longer one would begin."""
    everywhere = [(start, end) for start in range(len(text)) for end in range(start, len(text) + 1)]
    assert sorted(Finder(texts).found(text)) == [(a, b) for a, b in everywhere if text[a:b] in texts]


def test_none_reaches_beyond_the_end() -> None:
    """What is left of the text there is one of the texts itself, and shorter than the one that is looked for."""
    assert Finder({"<a", "<a>"}).found("b<a") == [(1, 3)]
