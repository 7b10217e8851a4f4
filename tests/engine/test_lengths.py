"""How few tokens a text can have: never more than it has."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from helpers.plain_families import CONTROL, USER_DEFINED
from helpers.tiny_vocabulary import KINDS, Kind, tiny_vocabulary
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.backend import Vocabulary
from erllama_py.engine.llama.lengths import Lengths
from erllama_py.engine.stub import StubVocabulary

PIECES = st.sampled_from([*CONTROL, *USER_DEFINED, "hello", "he", "▁", " ", "\n\n", "é", "😀", "\0", "\x04", "x"])
TEXTS = st.lists(PIECES | st.text(st.characters(exclude_categories=["Cs"]), max_size=3), max_size=40).map("".join)


@pytest.mark.parametrize("kind", ["stub", *KINDS])
def test_no_text_has_fewer_tokens(kind: Literal["stub"] | Kind, tmp_path: Path) -> None:
    """Whether control tokens are read in it or not."""

    def check(words: Vocabulary) -> None:
        @given(TEXTS)
        def holds(text: str) -> None:
            for special in (False, True):
                found = words.tokenize(text, add_special=False, parse_special=special)
                assert words.least_tokens(text) <= len(found)
            assert words.least_tokens(text * 100) >= len(text)  # it says something

        holds()

    if kind == "stub":
        check(StubVocabulary("m", 300))
        return
    with tiny_vocabulary(kind, tmp_path) as words:
        check(words)


@given(st.text("ab\x04\x06é"), st.integers(1, 5))
def test_characters_that_have_no_token_are_not_counted(text: str, longest: int) -> None:
    """A vocabulary of bytes may lack some, and leaves them out."""
    counted = len(text) - text.count("\x04") - text.count("\x06")
    assert Lengths(longest, "\x04\x06").least_tokens(text) == -(-counted // longest)
    assert Lengths(None).least_tokens(text) == 0
