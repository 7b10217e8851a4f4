"""The table by which a unigram tokenizer writes characters in another way, checked whole. Pure.

llama.cpp walks it byte by byte, and ends the process where a step leads out of it: at one prefix of one text. What no
trial can find is found here by taking every step. The format is that of SentencePiece's `precompiled_charsmap`: the
size of a trie in bytes, the trie as 32-bit units, and texts that end with a zero byte each. A unit has a label in bits
0-7, whether a text ends there in bit 8, and an offset in bits 10-30, which bit 9 multiplies by 256.
"""

from __future__ import annotations

import numpy
import numpy.typing

Units = numpy.typing.NDArray[numpy.uint32]

MOST_BYTES = 1024  # of what one prefix becomes, where Unicode's longest takes 33: a text would grow as much
_SIZE_BYTES = 4
_LABEL = numpy.uint32(1 << 31 | 0xFF)
_VALUE = numpy.uint32((1 << 31) - 1)
_LABELS = numpy.array([byte for byte in range(1, 0xF5) if byte not in (0xC0, 0xC1)], numpy.uint32)  # of UTF-8


def charsmap_fault(data: bytes) -> str | None:
    """What would end the process, or fill its memory, at some text; None where nothing would. 0.1 s for 250 KB."""
    if len(data) < _SIZE_BYTES:
        return None  # none, or one that llama.cpp refuses in order
    size = int.from_bytes(data[:_SIZE_BYTES], "little")
    if size + _SIZE_BYTES >= len(data):
        return None  # as well
    units = numpy.frombuffer(data, "<u4", size // 4, _SIZE_BYTES).astype(numpy.uint32)
    texts = data[_SIZE_BYTES + size :]
    return _trie_fault(units, texts) if len(units) else None


def _trie_fault(units: Units, texts: bytes) -> str | None:
    outside = "its tokenizer has a table of characters (precompiled_charsmap) that leads out of itself"
    seen = numpy.zeros(len(units) + 256, bool)
    places = _offsets(units[:1])
    while len(places):
        steps = (places[:, None] ^ _LABELS[None, :]).ravel()
        if steps.max() >= len(units):
            return outside
        steps = steps[(units[steps] & _LABEL) == (steps ^ numpy.repeat(places, len(_LABELS)))]
        ends, places = steps[(units[steps] >> numpy.uint32(8) & numpy.uint32(1)) == 1], steps ^ _offsets(units[steps])
        values = ends ^ _offsets(units[ends])
        if len(values) and values.max() >= len(units):
            return outside
        if (fault := _texts_fault(numpy.unique(units[values] & _VALUE), texts)) is not None:
            return fault
        places = numpy.unique(places)
        if len(places) and places.max() >= len(seen):
            return outside
        places = places[~seen[places]]
        seen[places] = True
    return None


def _texts_fault(starts: Units, texts: bytes) -> str | None:
    for start in starts.tolist():
        end = texts.find(b"\0", start, start + MOST_BYTES + 1) if start < len(texts) else -1
        if end < 0:
            return (
                "its tokenizer has a table of characters (precompiled_charsmap) with a text that does not end within "
                f"{MOST_BYTES:,} bytes"
            )
    return None


def _offsets(units: Units) -> Units:
    return (units >> numpy.uint32(10)) << ((units & numpy.uint32(1 << 9)) >> numpy.uint32(6))
