"""A llama.cpp vocabulary as llguidance wants it: the bytes of each token, and who cuts texts into tokens."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from erllama_py.engine.llama.native import Library

_SPECIAL = b"\xff"  # what llguidance knows control tokens by: no text has this byte
_PIECE_BYTES = 4096


def make_tokenizer(library: Library, handle: Any, n_vocab: int, ends: Sequence[int]) -> Any:
    """An `LLTokenizer`, valid as long as the vocabulary `handle` is. Takes 1 µs a token without the GIL's being held on
    to, then about 2 µs a token in one piece: llguidance builds its tables with the GIL held."""
    import llguidance

    words = list(words_of(library, handle, n_vocab))
    if not ends:  # llguidance needs a token that ends; this one no model draws
        words.append(_SPECIAL + b"<end>")
        ends = [n_vocab]
    cut: Any = ctypes.cast(library.c._lib.llama_tokenize, ctypes.c_void_p).value
    kind: Any = llguidance.LLTokenizer  # its type hints lack the method
    return kind.from_llamacpp(tokens=words, vocab_ptr=handle, tokenize_fptr=cut, eos_token=list(ends))


def words_of(library: Library, handle: Any, n_vocab: int) -> list[bytes]:
    """What each token writes; of those that write nothing, and of markers such as `<tool_call>`, their names after
    a byte that no text has, so that a structure only has them where it names them."""
    piece, attributes = library.quick.token_to_piece, library.quick.vocab_get_attr
    user_defined = int(library.c.LLAMA_TOKEN_ATTR_USER_DEFINED)
    buffer = ctypes.create_string_buffer(_PIECE_BYTES)

    def read(token: int, special: bool) -> bytes:
        count = int(piece(handle, token, buffer, _PIECE_BYTES, 0, special))
        return buffer.raw[:count] if count > 0 else b""  # none is so long that it would not fit

    words: list[bytes] = []
    for token in range(n_vocab):
        word = read(token, False)
        marker = word[:1] == b"<" and word[-1:] == b">" and attributes(handle, token) & user_defined
        if marker:
            word = _SPECIAL + word
        elif not word and (name := read(token, True)):
            word = _SPECIAL + name
        words.append(word)
    return words
