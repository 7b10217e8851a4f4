"""Texts are searched, cut and joined in blocks, with the result that they have at once."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.chat import finder, special_texts
from erllama_py.chat.finder import joined, matches
from erllama_py.chat.special_texts import Marks, SpecialTexts

TEXTS = st.lists(
    st.sampled_from(["<|im_end|>", "<s>", "<", "|>", "\ufdd0", "\\ufdd1", "a ", "im_end", "[/INST]", "<think>", "é"]),
    max_size=30,
).map("".join)
SPECIAL = SpecialTexts(("<|im_end|>", "<s>", "</s>", "[INST]", "<think>"), ("<td>",))
SOURCE = "{{ '<|im_end|>' + message['role'] }}<think>"
BLOCKS = st.integers(1, 9)


@given(TEXTS, BLOCKS)
def test_matches_are_those_of_the_whole_text(text: str, block: int) -> None:
    """Also those that lie across blocks, or look beyond one."""
    pattern = re.compile(r"<(?=[|s])|\\ufdd\d|(?<!a)\ufdd0|<think>")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finder, "BLOCK", block)
        assert [one.span() for one in matches(pattern, text)] == [one.span() for one in pattern.finditer(text)]


@given(st.lists(st.text("ab", max_size=2)), BLOCKS)
def test_pieces_are_joined(pieces: list[str], block: int) -> None:
    """With what is to be between them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finder, "SOME", block)
        assert joined(pieces, "-") == "-".join(pieces)


@given(TEXTS, BLOCKS)
def test_marks_are_the_same_in_blocks(text: str, block: int) -> None:
    """What is marked, cut and written plain."""

    def marked() -> tuple[str, str, list[str], str]:
        marks = Marks(SPECIAL, SOURCE, [text])
        rendered = f"<s>{marks.mark(text)}</s>"
        return marks.mark(text), marks.mark_own(text), list(marks.parts(rendered)), marks.plain(rendered)

    whole = marked()
    with pytest.MonkeyPatch.context() as patch:
        for place, name in ((finder, "BLOCK"), (finder, "SOME"), (special_texts, "SOME")):
            patch.setattr(place, name, block)
        assert marked() == whole
