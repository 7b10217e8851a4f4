"""The rows of one tier that may go, in the order of their last use. Pure.

A heap whose outdated entries are dropped when they are met: a row that is used, or has become a leaf again, gets a new
entry, and a hundred thousand rows that a directory reports in no order at all are in order at once.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Generator

# Outdated entries are dropped in one go when they are more than the valid ones, but not for less than this many.
LEAST_OUTDATED = 1024

Entry = tuple[float, int, bytes]


class Leaves:
    """Owns the order; which rows are leaves is said from outside."""

    __slots__ = ("_heap", "_numbers", "_valid")

    def __init__(self) -> None:
        self._valid: dict[bytes, Entry] = {}
        self._heap: list[Entry] = []
        self._numbers = itertools.count()  # no two entries are equal, and equal times keep their order

    def __len__(self) -> int:
        return len(self._valid)

    def __contains__(self, key: bytes) -> bool:
        return key in self._valid

    def add(self, key: bytes, used_at: float) -> None:
        """A row is a leaf, last used then. Allowed again."""
        known = self._valid.get(key)
        if known is not None and known[0] == used_at:
            return
        entry = self._valid[key] = (used_at, next(self._numbers), key)
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 2 * len(self._valid) + LEAST_OUTDATED:
            self._heap = list(self._valid.values())
            heapq.heapify(self._heap)

    def discard(self, key: bytes) -> None:
        """A row is no leaf."""
        self._valid.pop(key, None)

    def oldest(self) -> Generator[bytes, None, None]:
        """The least recently used first. Nothing may be added or discarded until the iterator is closed."""
        met: list[Entry] = []
        try:
            while self._heap:
                entry = heapq.heappop(self._heap)
                if self._valid.get(entry[2]) is entry:
                    met.append(entry)
                    yield entry[2]
        finally:
            for entry in met:
                heapq.heappush(self._heap, entry)
