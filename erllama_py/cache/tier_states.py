"""What is known of the tiers that run, beside their rows: how far each has looked at them, and what ails it."""

from __future__ import annotations

from erllama_py.cache.index import Index
from erllama_py.cache.views import tier_infos
from erllama_py.results import TierInfo


class TierStates:
    """See the module. A tier is *opening* from when it runs until it has looked at all of its rows."""

    def __init__(self) -> None:
        self._opened: dict[str, float] = {}
        self._problems: dict[str, str] = {}

    @property
    def opening(self) -> bool:
        """Whether any tier may have rows that are not known yet."""
        return any(part < 1.0 for part in self._opened.values())

    def up(self, tier: str) -> None:
        """It runs, and will tell its rows."""
        self._opened[tier] = 0.0

    def looked_at(self, tier: str, done: int, total: int) -> None:
        """It has looked at so many of its rows."""
        self._opened[tier] = done / total if total else 1.0

    def gone(self, tier: str) -> None:
        """It does not run any more."""
        self._opened.pop(tier, None)
        self._problems.pop(tier, None)

    def health(self, tier: str, problem: str | None) -> None:
        """It cannot be written, or can be again."""
        if problem is None:
            self._problems.pop(tier, None)
        else:
            self._problems[tier] = problem

    def infos(self, index: Index) -> list[TierInfo]:
        """All of them, as the application sees them."""
        return tier_infos(index, self._opened, self._problems)
