"""The index as the application sees it: rows and tiers as plain results. Pure.

`TierStates` owns what is known of the tiers that run, beside their rows: how far each scan has got, and why a tier
cannot be written.
"""

from __future__ import annotations

from collections.abc import Iterable

from erllama_py.cache.index import Entry, Index
from erllama_py.results import RowInfo, TierInfo


def row_infos(rows: Iterable[Entry]) -> list[RowInfo]:
    """Every copy of these rows."""
    return [
        RowInfo(
            key=row.key, parent=copy.meta.parent, start=copy.meta.start, end=copy.meta.end, tier=tier,
            nbytes=copy.nbytes, reason=copy.meta.reason, hits=row.hits, created_at=copy.meta.created_at,
            used_at=row.used_at, prefill_seconds=copy.meta.prefill_seconds, fingerprint=copy.meta.fingerprint,
            build=copy.meta.build,
        )
        for row in rows
        for tier, copy in row.copies.items()
    ]  # fmt: skip


class TierStates:
    """See the module. A tier is *opening* from its start until its scan has seen all of its rows."""

    def __init__(self) -> None:
        self._opened: dict[str, float] = {}
        self._problems: dict[str, str] = {}

    @property
    def opening(self) -> bool:
        """Whether any tier may have rows that are not known yet."""
        return any(part < 1.0 for part in self._opened.values())

    def up(self, tier: str) -> None:
        """It runs, and will report its rows."""
        self._opened[tier] = 0.0

    def looked_at(self, tier: str, done: int, total: int) -> None:
        """Its scan has seen `done` of `total` rows."""
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
        """Every tier that runs, as the application sees it."""
        return [
            TierInfo(
                name=tier, kind=book.kind, quota_bytes=book.quota, used_bytes=book.used(), rows=len(book.rows),
                opened=self._opened.get(tier, 0.0), problem=self._problems.get(tier),
            )
            for tier, book in index.books.items()
        ]  # fmt: skip
