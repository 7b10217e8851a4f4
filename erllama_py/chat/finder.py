"""Where texts of a set stand in another text: all of them, in a time that their number does not change. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable


class Finder:
    """Finds texts of two characters or more, by their first two and their lengths."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = frozenset(texts)
        self.seconds: dict[str, set[str]] = {}  # the characters that follow each first one
        self._lengths: dict[str, list[int]] = {}
        for text in sorted(self.texts):
            self.seconds.setdefault(text[0], set()).add(text[1])
            lengths = self._lengths.setdefault(text[:2], [])
            if len(text) not in lengths:
                lengths.append(len(text))
        pairs = (f"{re.escape(first)}(?=[{re.escape(''.join(sorted(next)))}])" for first, next in self.seconds.items())
        self._begins = re.compile("|".join(pairs) or "(?!)")

    def found(self, text: str) -> list[tuple[int, int]]:
        """Where they begin and end, by their beginnings; they may overlap."""
        return [
            (begun.start(), begun.start() + length)
            for begun in self._begins.finditer(text)
            for length in self._lengths[text[begun.start() : begun.start() + 2]]
            if begun.start() + length <= len(text) and text[begun.start() : begun.start() + length] in self.texts
        ]
