"""How long a piece of text llama.cpp's regular expressions may have to match at a time. Pure.

Some tokenizers first split a text into words by regular expressions. The C++ library matches those by recursion: 320
bytes of stack for each character of a match, so that 26,000 equal letters end a process whose threads have 8 MiB. A
match is as long as a stretch of characters of one kind, and what kinds there are depends on the tokenizer. All
others split by loops (`LOOPS`): they stand texts of any length.

`Stretches.bound` is never less than the longest match: characters beyond ASCII count as any kind, since their kinds
differ between versions of Unicode. `Stretches.likely` goes by Python's tables: what is refused is decided by that.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache

import msgspec
import numpy
import numpy.typing

Codes = numpy.typing.NDArray[numpy.uint32]
Bits = numpy.typing.NDArray[numpy.uint8]

STACK_PER_CHARACTER = 512  # bytes; 320 were measured, by a build of GCC with optimisation
FEW = 256  # characters: their matches fit into the smallest stack that a thread may have, musl's 128 KiB
MOST = 100_000  # characters: 32 MB of stack that are really used, and 0.1 s
MOST_SQUARES = 10**8  # where each character of a stretch is looked at from each one before it: 4 s, 30 ns each

# By `tokenizer.ggml.pre`: those whose regular expressions llama.cpp has rewritten as loops.
LOOPS = frozenset({
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano", "mpt",
    "starcoder", "gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum",
    "modern-bert", "jina-v1-en", "jina-v2-code", "roberta-bpe", "exaone4", "gemma4", "granite-embed-multi-311m",
    "sarvam-moe", "refact", "command-r", "qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "qwen35",
    "stablelm2", "olmo", "dbrx", "smaug-bpe", "chatglm-bpe", "glm4", "glm5", "jais", "smollm", "codeshell", "exaone",
    "minerva-7b", "trillion", "granite-docling", "hunyuan", "kimi-k2", "grok-2", "laguna", "solar-open", "mellum2",
})  # fmt: skip

Kind = Callable[[str], bool]
_SPACES = frozenset("\t\n\v\f\r \x85")  # llama.cpp's, beside those of Unicode's categories


def _is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM"


def _is_number(character: str) -> bool:
    return unicodedata.category(character)[0] == "N"


def _is_space(character: str) -> bool:
    return character in _SPACES or unicodedata.category(character)[0] == "Z"


def _is_other(character: str) -> bool:
    """Line ends and slashes are matched together with the signs before them."""
    return character in "\r\n" or not (unicodedata.category(character)[0] in "LNZ" or character in _SPACES)


def _is_word(character: str) -> bool:
    """Several words with a space between them are one match."""
    return _is_letter(character) or _is_space(character)


def _is_of_bloom(character: str) -> bool:
    return not (_is_space(character) or character in "(|.,!?)…。，、।۔،")


def _is_not_space(character: str) -> bool:
    return not _is_space(character)


_USUAL: tuple[Kind, ...] = (_is_letter, _is_number, _is_space, _is_other)
_KINDS: dict[str, tuple[Kind, ...]] = {
    "exaone-moe": (_is_word, _is_number, _is_other),
    "whitespace": (_is_not_space,),
    **dict.fromkeys(("bloom", "poro-chat", "gpt3-finnish", "viking"), (_is_of_bloom, _is_space)),
}
# What takes the square of the length of each stretch: `superbpe` looks ahead from every digit, and `deepseek-llm` from
# every space for the end of the text.
_SQUARES: dict[str, tuple[Kind, str]] = {
    "superbpe": (_is_number, "digits"),
    "deepseek-llm": (_is_space, "characters of white space"),
}
_BLOCK = 1 << 18  # characters that are looked at by one call that keeps other threads waiting
_WILD = 128  # what a character beyond ASCII is looked up as


class Stretches(msgspec.Struct, frozen=True):
    """The kinds of characters of one tokenizer, with a bit for each in `ascii`."""

    pre: str
    kinds: tuple[Kind, ...]
    ascii: Bits

    def bound(self, text: str) -> int:
        """Characters of the longest match, or more. 15 ms for a million."""
        return max(_longest(self._bits_of_ascii, text, kind) for kind in range(len(self.kinds)))

    def likely(self, text: str) -> int:
        """Characters of the longest stretch of one kind. 0.4 s for the first text."""
        return max(_longest(_table(self.kinds).take, text, kind) for kind in range(len(self.kinds)))

    def problem(self, text: str, bound: int) -> str | None:
        """Why a text is refused, if it is; `bound` is what `bound` says of it."""
        squares = _SQUARES.get(self.pre)
        if squares is not None and bound**2 * -(-len(text) // bound) > MOST_SQUARES:
            kind, name = squares
            lengths = list(_stretches(_table((kind,)).take, text, 0))
            if sum(int((found.astype(numpy.float64) ** 2).sum()) for found in lengths) > MOST_SQUARES:
                count = max(int(found.max(initial=0)) for found in lengths)
                return f"up to {count:,} {name} in a row take this model's tokenizer ({self.pre}) too long"
        if bound > MOST and (count := self.likely(text)) > MOST:
            one_kind = f"{count:,} characters of one kind in a row (letters, signs or white space)"
            return f"{one_kind} are more than the {MOST:,} that this model's tokenizer ({self.pre}) stands"
        return None

    def _bits_of_ascii(self, codes: Codes) -> Bits:
        return self.ascii[numpy.minimum(codes, _WILD)]


def stretches(pre: str) -> Stretches | None:
    """Of the tokenizer with this `tokenizer.ggml.pre`; `None` where texts of any length are safe. A name that is not
    known here is taken for one of the usual kind."""
    if pre in LOOPS:
        return None
    kinds = _KINDS.get(pre, _USUAL)
    return Stretches(pre, kinds, numpy.array([*(_bits(kinds, chr(code)) for code in range(_WILD)), 0xFF], numpy.uint8))


def _bits(kinds: tuple[Kind, ...], character: str) -> int:
    if unicodedata.category(character) == "Cn":
        return 0xFF
    return sum(1 << index for index, kind in enumerate(kinds) if kind(character))


@lru_cache(maxsize=8)
def _table(kinds: tuple[Kind, ...]) -> Bits:
    """The bits of all characters."""
    return numpy.fromiter((_bits(kinds, chr(code)) for code in range(0x110000)), numpy.uint8, 0x110000)


def _blocks(text: str) -> Iterator[Codes]:
    for start in range(0, len(text), _BLOCK):
        data = text[start : start + _BLOCK].encode("utf-32-le", "surrogatepass")
        yield numpy.frombuffer(data, numpy.dtype("<u4"))


def _longest(bits_of: Callable[[Codes], Bits], text: str, kind: int) -> int:
    return max((int(lengths.max(initial=0)) for lengths in _stretches(bits_of, text, kind)), default=0)


def _stretches(
    bits_of: Callable[[Codes], Bits], text: str, kind: int
) -> Iterator[numpy.typing.NDArray[numpy.signedinteger]]:
    """The lengths of all stretches of a kind, of which some are 0."""
    begun = 0
    for codes in _blocks(text):
        breaks = numpy.flatnonzero((bits_of(codes) & (1 << kind)) == 0)
        if not len(breaks):
            begun += len(codes)
            continue
        yield numpy.diff(breaks) - 1
        yield numpy.array([begun + breaks[0]])
        begun = len(codes) - 1 - int(breaks[-1])
    yield numpy.array([begun])
