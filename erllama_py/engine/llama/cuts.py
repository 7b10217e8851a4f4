"""Where a long text can be cut so that its pieces have the tokens that it has whole. Pure.

llama.cpp takes the square of how many control tokens, or tokens of a user's own (`<td>` of Gemma), a text has: it walks
its list of fragments for each. SentencePiece takes the square of how many characters no token has. Of pieces of some
thousand characters neither is felt. No token stands across

- the end of a text that is read as one token, where no other such text overlaps it, and no white space is beside its
  ends, which some of them swallow. Those that are white space alone are not looked for: none reaches into another so;
- the end of a character that is in no token: it becomes bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import merge

import numpy
import numpy.typing

from erllama_py.chat.finder import BLOCK, Finder

LONG = 16_384  # characters: what is shorter takes some milliseconds at the worst
STEP = 4_096  # characters of a piece, and up to the next place

_CODES = 0x110000
_SPACES = [code for code in range(0x3001) if chr(code).isspace()]


class Cuts:
    """The places of one vocabulary. `user_defined` and `control` are the texts that are read as one token each;
    `known`, for SentencePiece, all characters that are in a token."""

    def __init__(
        self, user_defined: Iterable[str], control: Iterable[str] = (), known: Iterable[str] | None = None
    ) -> None:
        self._control = frozenset(control)
        specials = {*user_defined, *self._control}
        self._finder = Finder(text for text in specials if len(text) > 1 and not _is_blank(text))
        self._unknown: numpy.typing.NDArray[numpy.bool_] | None = None
        if known is not None:
            self._unknown = numpy.ones(_CODES, bool)
            self._unknown[[*map(ord, known), *_SPACES]] = False

    def pieces(self, text: str) -> list[tuple[str, bool]]:
        """The text in pieces, and whether each stands after one that is read as one token, or first."""
        if len(text) <= LONG:
            return [(text, True)]
        pieces, start, is_after = list[tuple[str, bool]](), 0, True
        for place, after_special in merge(self._after_specials(text), self._after_unknown(text)):
            if place - start >= STEP and place < len(text):
                pieces.append((text[start:place], is_after))
                start, is_after = place, after_special
        return [*pieces, (text[start:], is_after)]

    def has_controls(self, text: str) -> bool:
        """Whether a control token stands in it, or may."""
        if any(len(one) < 2 or _is_blank(one) for one in self._control):
            return True
        return any(text[start:end] in self._control for start, end in self._finder.spans(text))

    def found(self, text: str) -> list[tuple[int, int]]:
        """Where the special texts stand, by their beginnings; they may overlap."""
        return self._finder.found(text)

    def _after_specials(self, text: str) -> Iterator[tuple[int, bool]]:
        spans, reach = self._finder.spans(text), 0  # how far those before reach
        span = next(spans, None)
        while span is not None:
            (start, end), following = span, next(spans, None)
            alone = reach <= start and (following is None or following[0] >= end)
            beside = (text[start - 1 : start], text[start], text[end - 1], text[end : end + 1])
            if alone and not any(map(_is_blank, beside)):
                yield end, True
            reach, span = max(reach, end), following

    def _after_unknown(self, text: str) -> Iterator[tuple[int, bool]]:
        """Not inside of a special text, nor at its ends."""
        spans, last = self._finder.spans(text), 0
        span = next(spans, None)
        for place in self._ends_of_unknown(text):
            if place - last < STEP // 2:  # more would be of no use
                continue
            while span is not None and span[1] < place - 1:
                span = next(spans, None)
            if span is None or span[0] > place:
                last = place
                yield place, False

    def _ends_of_unknown(self, text: str) -> Iterator[int]:
        if self._unknown is None:
            return
        for start in range(0, len(text), BLOCK):
            block = text[start : start + BLOCK].encode("utf-32-le", "surrogatepass")
            ends = numpy.flatnonzero(self._unknown[numpy.frombuffer(block, "<u4")])
            yield from (ends + (start + 1)).tolist()


def _is_blank(text: str) -> bool:
    """Whether it is white space alone, also as SentencePiece writes it."""
    return bool(text) and (text.isspace() or text.replace("\u2581", " ").isspace())
