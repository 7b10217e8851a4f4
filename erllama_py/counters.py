"""Named counters: plain numbers by dotted name, for the cache and its readers. Knows nothing of what it counts."""

from __future__ import annotations

from collections import defaultdict


class Counters:
    """Numbers that only grow. A name that was never counted reads as 0."""

    def __init__(self) -> None:
        self._values: defaultdict[str, float] = defaultdict(float)

    def add(self, name: str, amount: float = 1) -> None:
        """Count."""
        self._values[name] += amount

    def read(self) -> dict[str, float]:
        """All of them, sorted by name."""
        return dict(sorted(self._values.items()))

    def __getitem__(self, name: str) -> float:
        return self._values.get(name, 0)

    def __repr__(self) -> str:
        return f"<Counters {dict(self._values)}>"
