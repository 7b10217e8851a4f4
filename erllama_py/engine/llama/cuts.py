"""Where a long text can be cut so that its pieces have the tokens that it has whole. Pure.

llama.cpp takes the square of how many control tokens, or tokens of a user's own (`<td>` of Gemma), a text has: it walks
its list of fragments for each. SentencePiece takes the square of how many characters no token has. Of pieces of some
thousand characters neither is felt. No token stands across

- the end of a text that is read as one token, where no other such text overlaps it, and no white space is beside its
  ends, which some of them swallow. Those that are white space alone are not looked for: none reaches into another so;
- the end of a character that is in no token: it becomes bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from erllama_py.chat.finder import Finder

LONG = 16_384  # characters: what is shorter takes some milliseconds at the worst
STEP = 4_096  # characters of a piece, and up to the next place


class Cuts:
    """The places of one vocabulary. `user_defined` and `control` are the texts that are read as one token each;
    `known`, for SentencePiece, all characters that are in a token."""

    def __init__(
        self, user_defined: Iterable[str], control: Iterable[str] = (), known: Iterable[str] | None = None
    ) -> None:
        self._control = frozenset(control)
        specials = {*user_defined, *self._control}
        self._finder = Finder(text for text in specials if len(text) > 1 and not _is_blank(text))
        listed = None if known is None else "".join(sorted(set(known)))
        self._unknown = re.compile("(?!)" if listed is None else f"[^{re.escape(listed)}\\s]")

    def pieces(self, text: str) -> list[tuple[str, bool]]:
        """The text in pieces, and whether each stands after one that is read as one token, or first."""
        if len(text) <= LONG:
            return [(text, True)]
        places = [*self._after_specials(text), *((at, False) for at in self._after_unknown(text))]
        pieces, start, is_after = list[tuple[str, bool]](), 0, True
        for place, after_special in sorted(places):
            if place - start >= STEP and place < len(text):
                pieces.append((text[start:place], is_after))
                start, is_after = place, after_special
        return [*pieces, (text[start:], is_after)]

    def has_controls(self, text: str) -> bool:
        """Whether a control token stands in it, or may."""
        if any(len(one) < 2 or _is_blank(one) for one in self._control):
            return True
        return any(text[start:end] in self._control for start, end in self.found(text))

    def found(self, text: str) -> list[tuple[int, int]]:
        """Where the special texts stand, by their beginnings; they may overlap."""
        return self._finder.found(text)

    def _after_specials(self, text: str) -> Iterator[tuple[int, bool]]:
        spans = sorted(self.found(text))
        reach = 0  # of those before
        for index, (start, end) in enumerate(spans):
            alone = reach <= start and (index + 1 == len(spans) or spans[index + 1][0] >= end)
            beside = (text[start - 1 : start], text[start], text[end - 1], text[end : end + 1])
            if alone and not any(map(_is_blank, beside)):
                yield end, True
            reach = max(reach, end)

    def _after_unknown(self, text: str) -> Iterator[int]:
        """Not inside of a special text, nor at its ends."""
        spans, at, last = sorted(self.found(text)), 0, 0
        for match in self._unknown.finditer(text):
            place = match.end()
            if place - last < STEP // 2:  # more would be of no use
                continue
            while at < len(spans) and spans[at][1] < place - 1:
                at += 1
            if at == len(spans) or spans[at][0] > place:
                last = place
                yield place


def _is_blank(text: str) -> bool:
    """Whether it is white space alone, also as SentencePiece writes it."""
    return bool(text) and (text.isspace() or text.replace("\u2581", " ").isspace())
