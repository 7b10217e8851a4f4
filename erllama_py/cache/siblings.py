"""The rows that go on from one key, in the order of their tokens. Pure.

In that order the rows that have most in common with a prompt stand next to where the prompt itself would stand. So the
best of a hundred thousand is found with a handful of comparisons, and exactly.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterator

import msgspec

from erllama_py.cache.keys import common_prefix


class Child(msgspec.Struct, frozen=True, order=True, gc=False):
    """A row that goes on from a key; by itself it is all there is of one without siblings, as most are."""

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
    """Owns a `Child` for each row that goes on from the key; `ends` counts where they end."""

    __slots__ = ("_order", "ends")

    def __init__(self) -> None:
        self.ends: Counter[int] = Counter()
        self._order: list[Child] = []

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Child]:
        return iter(self._order)

    def add(self, child: Child) -> None:
        """A row is there once more."""
        self.ends[child.end] += 1
        bisect.insort(self._order, child)

    def remove(self, child: Child) -> None:
        """It is there once less."""
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
        """Let go of so many, where nobody will ask any more."""
        del self._order[-most:]
