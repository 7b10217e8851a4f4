"""Which parts of a segment are free: pure bookkeeping, whose caller locks."""

from __future__ import annotations

from bisect import bisect_left


class FreeRanges:
    """The free ranges of `size` units, none beside another: they are joined as they come back."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._starts, self._ends = [0], [size]

    def __repr__(self) -> str:
        return f"<FreeRanges: {self.free} of {self.size} in {len(self._starts)}>"

    @property
    def free(self) -> int:
        """How much is free in total."""
        return sum(self._ends) - sum(self._starts)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Start and end of each, ascending."""
        return [*zip(self._starts, self._ends, strict=True)]

    def take(self, size: int) -> int | None:
        """The start of `size` units that are taken now, from the smallest range that has them; None without one."""
        fitting = [
            (end - start, start) for start, end in zip(self._starts, self._ends, strict=True) if end - start >= size
        ]
        if not fitting:
            return None
        _, start = min(fitting)
        index = bisect_left(self._starts, start)
        if self._ends[index] - start == size:
            del self._starts[index], self._ends[index]
        else:
            self._starts[index] += size
        return start

    def give(self, start: int, size: int) -> None:
        """These are free again."""
        end, index = start + size, bisect_left(self._starts, start)
        joins_before = index > 0 and self._ends[index - 1] == start
        joins_after = index < len(self._starts) and self._starts[index] == end
        if joins_before and joins_after:
            self._ends[index - 1] = self._ends[index]
            del self._starts[index], self._ends[index]
        elif joins_before:
            self._ends[index - 1] = end
        elif joins_after:
            self._starts[index] = start
        else:
            self._starts.insert(index, start)
            self._ends.insert(index, end)
