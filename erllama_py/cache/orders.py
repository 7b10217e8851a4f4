"""The orders in which a tier's book keeps rows: leaves by their last use, siblings by their tokens. Pure.

`Order` is a sorted list in runs of some hundred rows. Whatever is added, taken out or moved, no operation touches more
than one run: a choice of victims costs the same after fifty thousand rows were pinned, used or removed. (A heap whose
outdated entries stay until they are met costs less on average, and all of it at once in the end.)

`Siblings` are the rows that extend one key. In the order of their tokens, the rows that have most in common with a
prompt stand next to where the prompt itself would stand. So the best of a hundred thousand is found with a handful of
comparisons, and exactly.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator

import msgspec

from erllama_py.cache.keys import TOKEN_BYTES, common_prefix

# Rows of a run, before it is cut in two: what a change moves at most, in some microseconds.
RUN = 1024

Mark = tuple[float, int, bytes]  # a time, a number, the key


class Order:
    """Owns the order of keys by a time and a number."""

    __slots__ = ("_lasts", "_marks", "_runs")

    def __init__(self) -> None:
        self._marks: dict[bytes, Mark] = {}
        self._runs: list[list[Mark]] = []  # none is empty
        self._lasts: list[Mark] = []  # of each run

    def __len__(self) -> int:
        return len(self._marks)

    def __contains__(self, key: bytes) -> bool:
        return key in self._marks

    def __iter__(self) -> Iterator[bytes]:
        """The first ones first. Nothing may be added or discarded meanwhile."""
        return (key for run in self._runs for _, _, key in run)

    def place(self, key: bytes, time: float, number: int) -> None:
        """Put a key where it belongs, wherever it was before."""
        self.discard(key)
        mark = self._marks[key] = (time, number, key)
        if not self._runs:
            self._runs.append([mark])
            self._lasts.append(mark)
            return
        at = min(bisect.bisect_left(self._lasts, mark), len(self._runs) - 1)
        run = self._runs[at]
        bisect.insort(run, mark)
        if len(run) > RUN:
            self._runs.insert(at + 1, run[RUN // 2 :])
            del run[RUN // 2 :]
            self._lasts.insert(at, run[-1])
            at += 1
        self._lasts[at] = self._runs[at][-1]

    def discard(self, key: bytes) -> None:
        """Take a key out, if it is there."""
        mark = self._marks.pop(key, None)
        if mark is None:
            return
        at = bisect.bisect_left(self._lasts, mark)
        run = self._runs[at]
        del run[bisect.bisect_left(run, mark)]
        if run:
            self._lasts[at] = run[-1]
        else:
            del self._runs[at], self._lasts[at]

    def time(self, key: bytes) -> float | None:
        """Its time; None where it is not here."""
        mark = self._marks.get(key)
        return None if mark is None else mark[0]

    def first(self) -> tuple[float, bytes] | None:
        """The first one's time and key."""
        return (self._runs[0][0][0], self._runs[0][0][2]) if self._runs else None


class Leaves:
    """Rows that may be evicted, the least recently used first; the caller knows which are."""

    __slots__ = ("_numbers", "_order")

    def __init__(self) -> None:
        self._order = Order()
        self._numbers = itertools.count()  # equal times keep their order

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, key: bytes) -> bool:
        return key in self._order

    def add(self, key: bytes, used_at: float) -> None:
        """A row is a leaf, last used then. Allowed again."""
        if self._order.time(key) != used_at:
            self._order.place(key, used_at, next(self._numbers))

    def discard(self, key: bytes) -> None:
        """A row is no leaf."""
        self._order.discard(key)

    def oldest(self) -> Iterator[bytes]:
        """The least recently used first. Nothing may be added or discarded meanwhile."""
        return iter(self._order)


class Child(msgspec.Struct, frozen=True, order=True, gc=False):
    """A row that extends a key; alone it also serves as the order of a row without siblings, as most are."""

    tokens: bytes
    key: bytes
    end: int

    @property
    def furthest(self) -> int:
        """See `Siblings.furthest`."""
        return self.end

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Child]:
        yield self

    def nearest(self, rest: bytes) -> Iterator[tuple[int, Child]]:
        """See `Siblings.nearest`."""
        yield common_prefix(self.tokens, rest), self

    def on_path(self, rest: bytes) -> Iterator[Child | None]:
        """See `Siblings.on_path`."""
        if rest.startswith(self.tokens):
            yield self


class Siblings:
    """Owns a `Child` for each row that extends the key."""

    __slots__ = ("_ends", "_order")

    def __init__(self) -> None:
        self._order: list[Child] = []
        self._ends: list[int] = []  # ascending, one for each row

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Child]:
        return iter(self._order)

    @property
    def furthest(self) -> int:
        """Where the longest of them ends."""
        return self._ends[-1]

    def add(self, child: Child) -> None:
        """Count one more copy of a row."""
        bisect.insort(self._ends, child.end)
        bisect.insort(self._order, child)

    def remove(self, child: Child) -> None:
        """Count one copy less."""
        del self._order[bisect.bisect_left(self._order, child)]
        del self._ends[bisect.bisect_left(self._ends, child.end)]

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

    def on_path(self, rest: bytes) -> Iterator[Child | None]:
        """The rows all of whose tokens `rest` begins with, the longest first; None for a place that was looked at in
        vain.

        In the order, whatever begins `rest` stands before it, and what stands between the two begins like it too. So
        each look either finds one, or cuts `rest` to what it has in common with the row that stands there.
        """
        order, right = self._order, len(self._order)
        while rest and right:
            right = bisect.bisect_right(order, rest, hi=right, key=_tokens)
            if not right:
                return
            tokens = order[right - 1].tokens
            common = TOKEN_BYTES * common_prefix(tokens, rest)
            if common < len(tokens):
                yield None
                rest = rest[:common]
                continue
            while right and order[right - 1].tokens == tokens:
                right -= 1
                yield order[right]

    def shed(self, most: int) -> None:
        """Free at most this many; the order is not used any more."""
        del self._order[-most:], self._ends[-most:]


def _tokens(child: Child) -> bytes:
    return child.tokens
