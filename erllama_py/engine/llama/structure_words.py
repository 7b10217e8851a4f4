"""The tokens of a llama.cpp vocabulary as structures see them."""

from __future__ import annotations

import ctypes
from typing import Any

from erllama_py.engine.llama.native import Library

SPECIAL = b"\xff"  # what llguidance knows control tokens by: no text has this byte
_PIECE_BYTES = 4096


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
            word = SPECIAL + word
        elif not word and (name := read(token, True)):
            word = SPECIAL + name
        words.append(word)
    return words
