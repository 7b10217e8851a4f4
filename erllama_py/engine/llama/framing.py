"""What the file of a vocabulary asks for: the tokens around a text, and how texts are split into words.

llama.cpp would put the tokens there by itself, and ends the process where a file asks for one that it does not have.
"""

from __future__ import annotations

import ctypes
from typing import Any

from erllama_py.engine.llama.native import Library
from erllama_py.engine.llama.stretches import Stretches, stretches

_NO_TOKEN = -1
_NAME_BYTES = 256


def frame(c: Any, handle: Any) -> tuple[list[int], list[int]]:
    """The tokens that the model wants before a text, and after it."""
    kind, bos, eos = c.llama_vocab_type(handle), c.llama_vocab_bos(handle), c.llama_vocab_eos(handle)
    if kind == c.LLAMA_VOCAB_TYPE_WPM:
        return _present([bos]), _present([c.llama_vocab_sep(handle)])
    if kind not in (c.LLAMA_VOCAB_TYPE_BPE, c.LLAMA_VOCAB_TYPE_SPM, c.LLAMA_VOCAB_TYPE_UGM):
        return [], []
    before = [bos] if c.llama_vocab_get_add_bos(handle) else []
    after = [eos] if c.llama_vocab_get_add_eos(handle) else []
    return _present(before), _present(after)


def pair_frame(c: Any, handle: Any) -> tuple[list[int], list[int], list[int]]:
    """See `Vocabulary.pair_frame`: `[CLS] query [SEP] document [SEP]` for BERT's vocabulary, and for others the
    tokens that their files ask for."""
    bos, eos, sep = c.llama_vocab_bos(handle), c.llama_vocab_eos(handle), c.llama_vocab_sep(handle)
    if c.llama_vocab_type(handle) == c.LLAMA_VOCAB_TYPE_WPM:
        before, between, after = [bos], [sep], [sep]
    else:
        ends = [sep if eos == _NO_TOKEN else eos] if c.llama_vocab_get_add_eos(handle) else []
        before = [bos] if c.llama_vocab_get_add_bos(handle) else []
        between = ends + ([sep] if c.llama_vocab_get_add_sep(handle) else [])
        after = ends
    return _present(before), _present(between), _present(after)


def stretches_of(library: Library, model: Any) -> Stretches | None:
    """What the tokenizer of a model does not stand; `None` where it stands texts of any length."""
    c = library.c
    if c.llama_vocab_type(c.llama_model_get_vocab(model)) != c.LLAMA_VOCAB_TYPE_BPE:
        return None
    if _text_of(c, model, b"tokenizer.ggml.model") == "gemma4":
        return None  # whatever it says of its words
    return stretches(_text_of(c, model, b"tokenizer.ggml.pre") or "default")


def _text_of(c: Any, model: Any, key: bytes) -> str:
    """A value of the model's file; empty where it has none, or a longer one than any name is."""
    buffer = ctypes.create_string_buffer(_NAME_BYTES)
    length = int(c.llama_model_meta_val_str(model, key, buffer, len(buffer)))
    return buffer.value.decode("utf-8", "replace") if 0 <= length < len(buffer) else ""


def _present(tokens: list[int]) -> list[int]:
    """Without those that the vocabulary does not have."""
    return [int(token) for token in tokens if token != _NO_TOKEN]
