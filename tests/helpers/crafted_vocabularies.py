"""Tiny models whose vocabularies end the process, loop for ever, or fill the memory: as they load, or at some texts."""

from __future__ import annotations

import struct
from typing import Any

from gguf import GGUFValueType

from helpers.spoilt_gguf import TEXT, U32, Spoilt
from helpers.tiny_gguf import n_vocab

ARRAY = GGUFValueType.ARRAY
MODEL, MAP = "tokenizer.ggml.model", "tokenizer.ggml.precompiled_charsmap"


def _filled(found: list[str], count: int) -> list[Any]:
    return [*found, *(f"<{number}>" for number in range(count - len(found)))]


def _rwkv(tokens: list[Any], *, lacking: int | None = None, extra: tuple[str, ...] = ()) -> list[Any]:
    bytes_ = [f"\\x{byte:02x}" for byte in range(256) if byte != lacking]
    return _filled([*bytes_, *extra], len(tokens))


def _spm(tokens: list[Any], lacking: int) -> list[Any]:
    return _filled(["<unk>", *(f"<0x{byte:02X}>" for byte in range(256) if byte != lacking)], len(tokens))


def charsmap(units: list[int], texts: bytes) -> bytes:
    """A table of a unigram tokenizer: see `engine/llama/charsmap.py`."""
    return struct.pack("<I", 4 * len(units)) + struct.pack(f"<{len(units)}I", *units) + texts


def one_step(byte: int, text: bytes, *, value: int = 0, size: int = 512) -> bytes:
    """A table by which one byte becomes a text."""
    units = [0x7F] * size
    units[0] = 256 << 10  # the root: its children are at 256 ^ byte
    units[256 ^ byte] = byte | 1 << 8 | (1 << 10)  # a text ends there; its number is beside it
    units[256 ^ byte ^ 1] = 1 << 31 | value
    return charsmap(units, text)


_LONG = 100_000
T5 = {MODEL: ("t5", TEXT), "tokenizer.ggml.unknown_token_id": (2, U32)}
CRAFTED = {
    "RWKV without a byte": Spoilt(
        "RWKV.*begin with 1 bytes",
        values={MODEL: ("rwkv", TEXT)},
        tokens=lambda tokens: _rwkv(tokens, lacking=ord("q"), extra=("qx",)),
    ),
    "RWKV without a byte beyond ASCII": Spoilt(
        "RWKV.*begin with 1 bytes",
        values={MODEL: ("rwkv", TEXT)},
        tokens=lambda tokens: _rwkv(tokens, lacking=0xF2, extra=("\\xf2\\x80",)),
    ),
    "SentencePiece without a byte": Spoilt(
        "1 of 256 bytes, <0xF2>", values={MODEL: ("llama", TEXT)}, tokens=lambda tokens: _spm(tokens, 0xF2)
    ),
    "RWKV without an unknown token": Spoilt(
        "the token -1 for the text",
        values={MODEL: ("rwkv", TEXT)},
        tokens=lambda tokens: _rwkv(tokens, lacking=ord("q")),
    ),
    "no tokenizer": Spoilt("no tokenizer", values={MODEL: ("no_vocab", TEXT), "llama.vocab_size": (n_vocab(), U32)}),
    "a table that leads out": Spoilt(
        "leads out of itself", values={**T5, MAP: (one_step(0xF2, b"a\0", size=500), ARRAY)}
    ),
    "a table with an endless text": Spoilt("does not end", values={**T5, MAP: (one_step(0xF2, b"a" * 99), ARRAY)}),
    "a table with a huge text": Spoilt(
        "does not end", values={**T5, MAP: (one_step(ord("a"), b"a" * (1 << 20) + b"\0"), ARRAY)}
    ),
    "a table whose text is elsewhere": Spoilt(
        "does not end", values={**T5, MAP: (one_step(ord("a"), b"a\0", value=7), ARRAY)}
    ),
    "a token too long to be written": Spoilt(
        "GiB.*reads the file", tokens=lambda tokens: [*tokens[:-4], "字" * _LONG, *tokens[-3:]]
    ),
    "a token too deep": Spoilt(
        "SIGSEGV",
        values=T5,
        tokens=lambda tokens: [*tokens[:-4], "a" * _LONG, *tokens[-3:]],
    ),
}  # fmt: skip
# For these no child is needed.
KNOWN = [name for name in CRAFTED if not name.endswith(("unknown token", "written", "deep"))]
