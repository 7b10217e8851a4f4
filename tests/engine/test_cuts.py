"""Long texts are tokenized in pieces, and have the tokens that they have whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.tiny_vocabulary import KINDS, Kind, tiny_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st

from erllama_py.chat import finder
from erllama_py.engine.llama import cuts, vocabulary
from erllama_py.engine.llama.cuts import Cuts
from erllama_py.errors import InvalidText

PARTS = ("<|im_end|>", "<s>", "</s>", "<|", "|>", "<", ">", " ", "\n", "hello", "user", "[/INST]")
TEXTS = st.lists(st.sampled_from((*PARTS, "Ж", "字", "▁", "\x02", "a")), max_size=30).map("".join)


@given(TEXTS, st.integers(1, 9))
def test_pieces_are_the_text(text: str, step: int) -> None:
    """All of it, in its order, and none across a special text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "LONG", 0)
        patch.setattr(cuts, "STEP", step)
        found = Cuts(["<|im_end|>", "<s>"], ["</s>", "[/INST]"], "helouser<>|/[]INST ")
        pieces = found.pieces(text)
        assert "".join(piece for piece, _ in pieces) == text
        ends = {sum(len(piece) for piece, _ in pieces[:count]) for count in range(1, len(pieces))}
        assert not any(start < end < stop for start, stop in found.found(text) for end in ends)


@given(TEXTS, st.integers(1, 9))
def test_texts_are_searched_in_blocks(text: str, block: int) -> None:
    """With the same result as at once: special texts, places, bytes, and where a character has no bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "LONG", 0)
        patch.setattr(cuts, "STEP", 2)
        one = Cuts(["<|im_end|>", "<s>"], ["</s>", "[/INST]"], "helouser<>|/[]INST ")
        whole = one.found(text), one.pieces(text), vocabulary._utf8(text)
        for module in (finder, cuts, vocabulary):
            patch.setattr(module, "BLOCK", block)
        assert (one.found(text), one.pieces(text), vocabulary._utf8(text)) == whole
        assert whole[0] == sorted(whole[0])
        with pytest.raises(InvalidText, match=f"at character {len(text)}$"):
            vocabulary._utf8(text + "\ud800")


def test_tokens_are_written_in_blocks(tmp_path: Path) -> None:
    """Characters whose bytes are in two blocks are whole; a space that was put first is taken off where it is."""
    with tiny_vocabulary("spm", tmp_path) as words:

        @settings(max_examples=20)
        @given(TEXTS, st.integers(1, 5))
        def same(text: str, piece: int) -> None:
            tokens = words.tokenize("</s>" + text, add_special=False, parse_special=True)
            for special in (False, True):
                whole = words.detokenize(tokens, special=special), words.detokenize(tokens[:-1], special=special)
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(vocabulary, "PIECE", piece)
                    found = words.detokenize(tokens, special=special), words.detokenize(tokens[:-1], special=special)
                assert found == whole

        same()


@pytest.mark.slow
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_in_pieces_has_the_tokens_that_it_has_whole(kind: Kind, special: bool, tmp_path: Path) -> None:
    """With spaces that tokenizers put first, and characters that no token has."""
    with tiny_vocabulary(kind, tmp_path) as words, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "STEP", 2)

        @settings(max_examples=400)
        @given(TEXTS)
        def same(text: str) -> None:
            patch.setattr(cuts, "LONG", 1 << 30)
            patch.setattr(vocabulary, "LONG", 1 << 30)
            whole = words.tokenize(text, add_special=False, parse_special=special)
            patch.setattr(cuts, "LONG", 0)
            patch.setattr(vocabulary, "LONG", 0)
            assert words.tokenize(text, add_special=False, parse_special=special) == whole

        same()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_control_tokens_are_cut_between(kind: Kind, tmp_path: Path) -> None:
    """So that a text of them takes no longer than one of words."""
    with tiny_vocabulary(kind, tmp_path) as words:
        one = words.tokenize("<|im_end|>", add_special=False, parse_special=True)
        assert len(words._cuts_of(True).pieces("<|im_end|>" * 20_000)) > 40
        assert words.tokenize("<|im_end|>" * 20_000, add_special=False, parse_special=True) == one * 20_000
