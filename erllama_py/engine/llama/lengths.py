"""How few tokens a text can have, by the longest token of a vocabulary: what no context holds is known without being
tokenized, which takes a second for each megabyte or two."""

from __future__ import annotations

import ctypes
from typing import Any

import msgspec

from erllama_py.chat.finder import BLOCK
from erllama_py.engine.llama.native import Library

_ROOM = 256  # bytes; of a longer token only the length is asked for


class Lengths(msgspec.Struct, frozen=True):
    """What is known of a vocabulary's tokens. Pure."""

    longest: int | None
    """Bytes of the longest; `None` where a token may stand for more than its own text."""
    lost: str = ""
    """The characters that it has no token for, and leaves out."""

    def least_tokens(self, text: str) -> int:
        """No text has fewer: each character has at least one byte, and each byte is in a token. 0: not known."""
        if self.longest is None:
            return 0
        count = len(text)
        for start in range(0, len(text) if self.lost else 0, BLOCK):
            count -= sum(text.count(one, start, start + BLOCK) for one in self.lost)
        return -(-count // self.longest)


def lengths_of(library: Library, handle: Any, n_vocab: int) -> Lengths:
    """Of a `llama_vocab *`. Some kinds of tokenizers leave out white space, accents or whole words, and so do some
    tokens of others, with the white space beside them."""
    c, quick = library.c, library.quick
    if (kind := c.llama_vocab_type(handle)) not in (c.LLAMA_VOCAB_TYPE_BPE, c.LLAMA_VOCAB_TYPE_SPM):
        return Lengths(None)
    strips, hidden = int(c.LLAMA_TOKEN_ATTR_LSTRIP | c.LLAMA_TOKEN_ATTR_RSTRIP), int(c.LLAMA_TOKEN_ATTR_CONTROL)
    longest, single = 1, bytearray(256)  # by byte: whether there is a token of it alone
    buffer = ctypes.create_string_buffer(_ROOM)
    for token in range(n_vocab):
        attribute = int(quick.vocab_get_attr(handle, token))
        if attribute & strips:
            return Lengths(None)
        length = abs(quick.token_to_piece(handle, token, buffer, _ROOM, 0, True))
        longest = max(longest, length)
        if length == 1 and not attribute & hidden:
            single[buffer.raw[0]] = 1
    if kind == c.LLAMA_VOCAB_TYPE_SPM:  # each byte without a token of its own is an error
        return Lengths(longest)
    if not all(single[0x80:0xC0]):  # one of these is in each character beyond ASCII
        return Lengths(None)
    return Lengths(longest, "".join(chr(code) for code in range(0x80) if not single[code]))
