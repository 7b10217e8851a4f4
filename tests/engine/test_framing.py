"""The tokens that a model wants around a text: those before it for prompts, all for what is embedded."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from helpers.tiny_bert import CLS, SEP, tiny_bert
from helpers.tiny_vocabulary import KINDS, Kind, tiny_vocabulary
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.llama.backend import LlamaBackend
from erllama_py.engine.llama.native import library
from erllama_py.engine.llama.vocabulary import LlamaVocabulary
from erllama_py.options.model import parse_model_config


def by_llama(vocabulary: LlamaVocabulary, text: str) -> list[int]:
    """What llama.cpp gives when it is asked to put the tokens there."""
    with vocabulary._use() as handle:
        buffer = (ctypes.c_int32 * 1000)()
        data = text.encode()
        count = library().c.llama_tokenize(handle, data, len(data), buffer, 1000, True, False)
    return buffer[:count]


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("begin", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_framed_as_llama_frames_it(kind: Kind, begin: bool, end: bool, tmp_path: Path) -> None:
    """With the tokens that the file asks for, whatever the text."""
    with tiny_vocabulary(kind, tmp_path, asks_for=(begin, end)) as vocabulary:

        @given(st.text(st.sampled_from("he lo\n<|>"), max_size=9))
        def same(text: str) -> None:
            assert vocabulary.tokenize(text, add_special=True, parse_special=False) == by_llama(vocabulary, text)

        same()


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_token_that_a_file_asks_for_is_not_put_before_a_reply(kind: Kind, tmp_path: Path) -> None:
    """A prompt has the begin token alone."""
    with tiny_vocabulary(kind, tmp_path, asks_for=(True, True)) as vocabulary:
        framed = vocabulary.tokenize("", add_special=True, parse_special=False)
        assert len(framed) == 2
        assert vocabulary.begin == framed[:1]
        assert vocabulary.is_end(framed[1])


def test_an_encoder_has_its_own_tokens_around_a_text(tmp_path: Path) -> None:
    """BERT's, whatever is said of begin and end."""
    config = {"model_path": tiny_bert(tmp_path), "model_opts": {"vocab_only": True}}
    backend = LlamaBackend("m", parse_model_config(config))
    backend.load(lambda _: True)
    tokens = backend.vocabulary.tokenize("cat", add_special=True, parse_special=False)
    backend.close()
    assert (tokens[0], tokens[-1]) == (CLS, SEP)
