"""Where texts of a set stand in another text: all of them, in a time that their number does not change. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

BLOCK = 1 << 16  # characters that are searched by one call, which keeps other threads waiting: 2 ms
SOME = 4_096  # pieces of a text that there are at a time: as many are freed by one call
_BEYOND = 64  # characters that a match is long, or looks ahead, at the most


def matches(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """As `finditer`, block by block, for patterns that look at up to 64 characters and never match nothing."""
    at = 0
    for start in range(0, len(text), BLOCK):
        stop = start + BLOCK
        for found in pattern.finditer(text, max(at, start), stop + _BEYOND):
            if found.start() >= stop:
                break
            at = found.end()
            yield found


def joined(pieces: Iterable[str], between: str = "") -> str:
    """As `join`, some thousand at a time."""
    each, found = iter(pieces), list[str]()
    while some := list(islice(each, SOME)):
        found.append(between.join(some))
    return between.join(found)


class Finder:
    """Finds texts of two characters or more, by their first two and their lengths."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = frozenset(texts)
        self.seconds: dict[str, set[str]] = {}  # the characters that follow each first one
        self._lengths: dict[str, list[int]] = {}
        for text in sorted(self.texts, key=len):
            self.seconds.setdefault(text[0], set()).add(text[1])
            lengths = self._lengths.setdefault(text[:2], [])
            if len(text) not in lengths:
                lengths.append(len(text))
        pairs = (
            f"{re.escape(first)}(?=[{re.escape(''.join(sorted(next)))}])"
            for first, next in sorted(self.seconds.items())
        )
        self._begins = re.compile("|".join(pairs) or "(?!)")

    def found(self, text: str) -> list[tuple[int, int]]:
        """Where they begin and end, by their beginnings and then their ends; they may overlap."""
        return list(self.spans(text))

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """As `found`, one by one."""
        if not self.texts:
            return
        for start in range(0, len(text), BLOCK):
            stop = start + BLOCK
            for begun in self._begins.finditer(text, start, stop + 1):  # its second character may be the next block's
                at = begun.start()
                for length in self._lengths[text[at : at + 2]]:
                    if at + length <= len(text) and text[at : at + length] in self.texts:
                        yield at, at + length
