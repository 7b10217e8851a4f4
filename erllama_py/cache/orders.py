"""The orders in which a tier's book keeps rows: leaves by their last use, siblings by their tokens. Pure.

`Leaves` is a heap whose outdated entries are dropped when they are met: a row that is used, or has become a leaf again,
gets a new entry, and a hundred thousand rows that a directory reports in no order at all are in order at once.

`Siblings` are the rows that extend one key. In the order of their tokens, the rows that have most in common with a
prompt stand next to where the prompt itself would stand. So the best of a hundred thousand is found with a handful of
comparisons, and exactly.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections import Counter
from collections.abc import Generator, Iterator

import msgspec

from erllama_py.cache.keys import common_prefix

# Outdated entries are dropped in one go when they are more than the valid ones, but not for less than this many.
LEAST_OUTDATED = 1024

Mark = tuple[float, int, bytes]  # last use, a number, key


class Leaves:
    """Owns the order; the caller knows which rows are leaves."""

    __slots__ = ("_heap", "_numbers", "_valid")

    def __init__(self) -> None:
        self._valid: dict[bytes, Mark] = {}
        self._heap: list[Mark] = []
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
        met: list[Mark] = []
        try:
            while self._heap:
                entry = heapq.heappop(self._heap)
                if self._valid.get(entry[2]) is entry:
                    met.append(entry)
                    yield entry[2]
        finally:
            for entry in met:
                heapq.heappush(self._heap, entry)


class Child(msgspec.Struct, frozen=True, order=True, gc=False):
    """A row that extends a key; alone it also serves as the order of a row without siblings, as most are."""

    tokens: bytes
    key: bytes
    end: int

    @property
    def ends(self) -> tuple[int]:
        """See `Siblings.ends`."""
        return (self.end,)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Child]:
        yield self

    def nearest(self, rest: bytes) -> Iterator[tuple[int, Child]]:
        """See `Siblings.nearest`."""
        yield common_prefix(self.tokens, rest), self


class Siblings:
    """Owns a `Child` for each row that extends the key; `ends` counts where they end."""

    __slots__ = ("_order", "ends")

    def __init__(self) -> None:
        self.ends: Counter[int] = Counter()
        self._order: list[Child] = []

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Child]:
        return iter(self._order)

    def add(self, child: Child) -> None:
        """Count one more copy of a row."""
        self.ends[child.end] += 1
        bisect.insort(self._order, child)

    def remove(self, child: Child) -> None:
        """Count one copy less."""
        del self._order[bisect.bisect_left(self._order, child)]
        self.ends[child.end] -= 1
        if not self.ends[child.end]:
            del self.ends[child.end]

    def nearest(self, rest: bytes) -> Iterator[tuple[int, Child]]:
        """Tokens in common with `rest`, and the row: those with most in common first.

        A row comes as often as it was added.
        """
        order = self._order
        right = bisect.bisect_left(order, Child(rest, b"", 0))
        left = right - 1
        before = common_prefix(order[left].tokens, rest) if left >= 0 else -1
        after = common_prefix(order[right].tokens, rest) if right < len(order) else -1
        # What two lists have in common never grows with the distance between them in the order.
        while before >= 0 or after >= 0:
            if before >= after:
                yield before, order[left]
                left -= 1
                before = common_prefix(order[left].tokens, rest) if left >= 0 else -1
            else:
                yield after, order[right]
                right += 1
                after = common_prefix(order[right].tokens, rest) if right < len(order) else -1

    def shed(self, most: int) -> None:
        """Free at most this many; the order is not used any more."""
        del self._order[-most:]
