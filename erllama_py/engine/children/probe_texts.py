"""The texts that a vocabulary is tried with in a child, and what must come of them.

Some vocabularies end the process, or loop for ever, at one byte or one character alone. llama.cpp takes bytes, so each
is given by itself: that way every byte that a vocabulary of bytes lacks is found. Of characters some of each block of
Unicode are given, and runs of those that tokenizers split by. Standard library only.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

# Of every way through a tokenizer: none, words, numbers, white space, other scripts, control characters, and what
# control tokens look like.
TEXTS = (
    "", "a", "\x02", " Hello, World's  end!\n\n\t12345 3.14",
    "日本語 é ☂ 👩‍👩‍👧 Ω ß \u200b\u00a0\ufeff", "\x01\x7f\u0378\U0010fffd",
    "<|im_start|><s></s>[INST]<unk>", "x" * 300,
)  # fmt: skip
# All that may stand in UTF-8.
BYTES = tuple(bytes([byte]) for byte in range(0xF5) if byte not in (0xC0, 0xC1))
_CODES = (
    *range(1, 0x250), *range(0x300, 0x370), *range(0x370, 0xD800, 0x20), *range(0xE000, 0x10000, 0x20),
    *range(0x10000, 0x20000, 0x40), *range(0x20000, 0x110000, 0x1000),
)  # fmt: skip
RUNS = ("a", "A", "7", " ", "\n", "\t", "!", "字", "\u0301", "\u200d", "▁", "👩\u200d", "\u0378", " a", "\r\n", "<")
_RUN = 200
_ENDS = 512  # tokens at each end of a vocabulary, where the special ones are, whose own texts are given
_ROOM = 1 << 16  # tokens and bytes


def texts_of_all() -> Iterator[bytes]:
    """What is given to every vocabulary."""
    yield from BYTES
    yield "".join(map(chr, _CODES)).encode()
    yield " ".join(map(chr, _CODES)).encode()
    for unit in RUNS:
        yield (unit * _RUN).encode()


def texts_of_tokens(c: Any, vocabulary: Any) -> Iterator[bytes]:
    """The texts of the first and the last tokens of a vocabulary, with nothing and with a space between them."""
    count = c.llama_vocab_n_tokens(vocabulary)
    for first in (0, max(0, count - _ENDS)):
        found = [c.llama_vocab_get_text(vocabulary, token) or b"" for token in range(first, min(first + _ENDS, count))]
        yield b"".join(found)[: _ROOM >> 2]
        yield b" ".join(found)[: _ROOM >> 2]


def read_texts(c: Any, vocabulary: Any) -> str | None:
    """Tokenize each text, and turn every token into text again; what is wrong, if that ends no process."""
    tokens, count = (c.llama_token * _ROOM)(), c.llama_vocab_n_tokens(vocabulary)
    for data, adds in (
        *((text.encode(), (False, True)) for text in TEXTS),
        *((data, (False,)) for data in (*texts_of_all(), *texts_of_tokens(c, vocabulary))),
    ):
        for add_special in adds:
            for parse_special in (False, True):
                found = c.llama_tokenize(vocabulary, data, len(data), tokens, _ROOM, add_special, parse_special)
                if (problem := _problem(data, tokens[: max(0, found)], count)) is not None:
                    return problem
    _write_all(c, vocabulary, count)
    return None


def _problem(data: bytes, found: list[int], count: int) -> str | None:
    strange = next((token for token in found if not 0 <= token < count), None)
    if strange is None:
        return None
    shown = ascii(data[:20].decode(errors="replace"))
    return f"its tokenizer gives the token {strange} for the text {shown}, and has tokens 0 to {count - 1}"


def _write_all(c: Any, vocabulary: Any, count: int) -> None:
    tokens = (c.llama_token * count)(*range(count))
    for special in (False, True):
        room = _ROOM
        while room:
            buffer = ctypes.create_string_buffer(room)
            room = -min(0, c.llama_detokenize(vocabulary, tokens, count, buffer, room, False, special))
