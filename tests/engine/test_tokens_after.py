"""The tokens of a text that goes on from another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.tiny_vocabulary import KINDS, tiny_vocabulary

from erllama_py.engine.backend import Vocabulary
from erllama_py.engine.stub import StubVocabulary


@pytest.fixture(scope="module", params=["stub", *KINDS])
def vocabulary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocabulary]:
    """That of SentencePiece puts a space before each text."""
    if request.param == "stub":
        yield StubVocabulary("m", 300)
        return
    with tiny_vocabulary(request.param, Path(tmp_path_factory.mktemp("vocabularies"))) as opened:
        yield opened


@pytest.mark.parametrize("text", ["yes", " yes", "é", "<|end|>", "<|im_end|>", "a", ""])
def test_no_space_is_put_before_a_continuation(vocabulary: Vocabulary, text: str) -> None:
    """Its tokens are just its text, control tokens too."""
    tokens = vocabulary.tokens_after(text)
    assert b"".join(vocabulary.token_bytes(token, special=False) for token in tokens) == text.encode()


def test_a_vocabulary_that_puts_a_space_first_is_among_them(tmp_path: Path) -> None:
    """So that the other test says something."""
    with tiny_vocabulary("spm", tmp_path) as words:
        tokens = words.tokenize("yes", add_special=False, parse_special=False)
        assert b"".join(words.token_bytes(token, special=False) for token in tokens) == b" yes"
