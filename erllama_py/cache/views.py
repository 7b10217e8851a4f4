"""The index as the application sees it: rows and tiers as plain results. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from erllama_py.cache.index import Index, Row
from erllama_py.results import RowInfo, TierInfo


def row_infos(rows: Iterable[Row]) -> list[RowInfo]:
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


def tier_infos(index: Index, opened: Mapping[str, float], problems: Mapping[str, str]) -> list[TierInfo]:
    """Every tier that runs; `opened` says how far each has looked at its rows, `problems` which cannot be written."""
    return [
        TierInfo(
            name=tier, kind=book.kind, quota_bytes=book.quota, used_bytes=book.used(), rows=len(book.rows),
            opened=opened.get(tier, 0.0), problem=problems.get(tier),
        )
        for tier, book in index.books.items()
    ]  # fmt: skip
