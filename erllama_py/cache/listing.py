"""All rows and tiers as the application sees them, described in portions. Changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import islice

from erllama_py.cache.index import Entry, Index
from erllama_py.results import RowInfo, TierInfo

ROWS_AT_ONCE = 1000  # rows that are described before the loop turns: some 3 ms


async def list_rows(index: Index, unix: Callable[[float], float]) -> list[RowInfo]:
    """Every copy of every row; `unix` says what a time of the cache's clock is elsewhere. A hundred thousand rows take
    a while: the event loop turns in between."""
    rows, infos = index.rows(), list[RowInfo]()
    while portion := list(islice(rows, ROWS_AT_ONCE)):
        infos += row_infos(portion, index.kept_until, unix)
        await asyncio.sleep(0)
    return infos


def row_infos(
    rows: Iterable[Entry], until: Callable[[str, bytes], float | None], unix: Callable[[float], float]
) -> list[RowInfo]:
    """Every copy of these rows; `until` says until when one is kept, `unix` what a time here is elsewhere."""
    return [
        RowInfo(
            key=row.key.hex(), parent=copy.meta.parent.hex(), start=copy.meta.start, end=copy.meta.end, tier=tier,
            nbytes=copy.nbytes, reason=copy.meta.reason, hits=row.hits, created_at=copy.meta.created_at,
            used_at=unix(row.used_at), prefill_seconds=copy.meta.prefill_seconds,
            fingerprint=copy.meta.fingerprint.hex(), build=copy.meta.build,
            kept_until=None if (kept := until(tier, row.key)) is None else unix(kept),
        )
        for row in rows
        for tier, copy in row.copies.items()
    ]  # fmt: skip


def tier_infos(index: Index) -> list[TierInfo]:
    """Every tier that runs."""
    return [
        TierInfo(
            name=tier, kind=book.kind, quota_bytes=book.quota, used_bytes=book.used(), rows=len(book.rows),
            opened=book.opened, problem=book.problem, kept_bytes=book.keeps.nbytes,
        )
        for tier, book in index.books.items()
    ]  # fmt: skip
