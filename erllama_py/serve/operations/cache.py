"""`GET /erllama/cache`: the tiers, what they hold in all, and what the cache has done. No row is shown by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import msgspec
from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.operations.cache_names import labelled
from erllama_py.serve.operations.protocol import without_folders

AT_A_TIME = 2_000  # rows that are summed up between two turns of the loop: about 2 ms


class Rows(msgspec.Struct, kw_only=True):
    """Rows of one tier that were saved for one reason, summed up. Sizes are in bytes."""

    tier: str
    reason: str
    rows: int = 0
    tokens: int = 0
    nbytes: int = 0
    hits: int = 0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the cache."""

    tiers: list[erllama.TierInfo]
    rows: list[Rows]
    hits: dict[str, int]
    """Requests that began with something, by what that was."""
    misses: dict[str, int]
    """Requests that began cold, by the reason."""
    counters: dict[str, float]
    """All counters, by the names that the caching guide lists."""
    models: dict[str, str] = {}
    """Names of loaded models by the fingerprint of their rows. Rows of a tenant's own have another."""


def summed(rows: Iterable[erllama.RowInfo], into: dict[tuple[str, str], Rows]) -> None:
    """Add rows to sums by tier and reason."""
    for row in rows:
        key = (row.tier, row.reason)
        one = into.get(key)
        if one is None:
            one = into[key] = Rows(tier=row.tier, reason=row.reason)
        one.rows += 1
        one.tokens += row.end - row.start
        one.nbytes += row.nbytes
        one.hits += row.hits


def report(
    tiers: Iterable[erllama.TierInfo], rows: Mapping[tuple[str, str], Rows], counters: Mapping[str, float],
    models: Mapping[str, str],
) -> Report:  # fmt: skip
    """All of it, without folders of the machine."""
    shown = [
        msgspec.structs.replace(one, problem=None if one.problem is None else without_folders(one.problem))
        for one in tiers
    ]
    hits, misses = dict[str, int](), dict[str, int]()
    for name, count in counters.items():
        kind, label = labelled(name)
        if kind in ("hits", "misses"):
            (hits if kind == "hits" else misses)[label] = int(count)
    known = {without_folders(name): count for name, count in counters.items()}
    return Report(
        tiers=shown,
        rows=[rows[key] for key in sorted(rows)],
        hits=hits,
        misses=misses,
        counters=known,
        models=dict(models),
    )


async def cache(exchange: Exchange) -> ASGIApp:
    """The cache in total: tiers, rows by tier and reason, hits and misses, counters."""
    exchange.check_operator()
    handle = exchange.service.runtime.cache
    rows, sums = await handle.rows(), dict[tuple[str, str], Rows]()
    for start in range(0, len(rows), AT_A_TIME):
        summed(rows[start : start + AT_A_TIME], sums)
        await asyncio.sleep(0)
    models = {info.fingerprint: info.id for info in exchange.service.runtime.list_models() if info.fingerprint}
    return json_response(report(await handle.tiers(), sums, await handle.counters(), models))
