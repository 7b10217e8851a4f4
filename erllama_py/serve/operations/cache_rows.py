"""The cache row by row, for operators: what there is, whether it is whole, and what is to go.

Tokens of prompts are in no answer: a row is known by its key. Long answers are objects of JSON, one a line, sent as
they are made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.operations.protocol import without_folders

LINES = "application/x-ndjson"
AT_A_TIME = 500  # rows that are encoded between two turns of the loop: some 2 ms
TOLD_EVERY = 64  # rows that are checked between two words of progress

TierName = Annotated[str, Meta(min_length=1, max_length=200)]
RowKey = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class RemoveBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows that are to be removed from a tier, with all rows that extend them."""

    tier: TierName
    keys: Annotated[tuple[RowKey, ...], Meta(max_length=10_000)]


class VerifyBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tier whose rows are to be read and compared with their checksums."""

    tier: TierName


class Freed(msgspec.Struct, frozen=True):
    """Bytes of files and rows that nothing could use any more."""

    freed: int


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """How far a check is. The last one has `done` equal to `total`."""

    done: int
    total: int
    bad: tuple[erllama.FileProblem, ...] = ()
    """Of the rows since the last one, those that are bad. They are out of the cache by now."""


async def rows(exchange: Exchange) -> ASGIApp:
    """Every row of every tier, or with `?tier=` of one: a `RowInfo` a line."""
    exchange.check_operator()
    tier = exchange.request.query_params.get("tier")
    if tier is not None:
        await _check_tier(exchange, tier)
    found = await exchange.service.runtime.cache.rows()
    return StreamingResponse(_encoded(found, tier), media_type=LINES)


async def remove(exchange: Exchange) -> ASGIApp:
    """Remove rows of a tier, and all that extend them; those that are in use are left."""
    exchange.check_operator()
    body = await exchange.body(RemoveBody)
    await _check_tier(exchange, body.tier)
    return json_response(await exchange.service.runtime.cache.remove(body.keys, body.tier))


async def verify(exchange: Exchange) -> ASGIApp:
    """Read every row of a tier whole: a `Checked` a line. It takes as long as reading the tier."""
    exchange.check_operator()
    body = await exchange.body(VerifyBody)
    await _check_tier(exchange, body.tier)
    cache = exchange.service.runtime.cache
    rows = [row for row in await cache.rows() if row.tier == body.tier]
    return StreamingResponse(_checked(cache, rows), media_type=LINES)


async def gc(exchange: Exchange) -> ASGIApp:
    """Remove rows that nothing can reach, and what tiers have set aside."""
    exchange.check_operator()
    return json_response(Freed(await exchange.service.runtime.cache.gc()))


async def _check_tier(exchange: Exchange, tier: str) -> None:
    """Raises `Problem` where no tier of this name runs."""
    names = [one.name for one in await exchange.service.runtime.cache.tiers()]
    if tier not in names:
        raise Problem("not_found", f"there is no tier {tier!r}; running: {', '.join(names)}", code="tier_not_found")


_encode = msgspec.json.Encoder().encode


async def _encoded(found: list[erllama.RowInfo], tier: str | None) -> AsyncIterator[bytes]:
    for start in range(0, len(found), AT_A_TIME):
        wanted = (row for row in found[start : start + AT_A_TIME] if tier in (None, row.tier))
        yield _lines(wanted)
        await asyncio.sleep(0)


async def _checked(cache: erllama.Cache, rows: list[erllama.RowInfo]) -> AsyncIterator[bytes]:
    bad: list[erllama.FileProblem] = []
    for done, row in enumerate(rows):
        if done % TOLD_EVERY == 0:
            yield _lines([Checked(done=done, total=len(rows), bad=tuple(bad))])
            bad = []
        if (problem := await _problem(cache, row)) is not None:
            bad.append(problem)
    yield _lines([Checked(done=len(rows), total=len(rows), bad=tuple(bad))])


async def _problem(cache: erllama.Cache, row: erllama.RowInfo) -> erllama.FileProblem | None:
    """What is wrong with a row, if anything. One that was evicted meanwhile is not."""
    try:
        await cache.read(row.key, row.tier)
    except erllama.TierError as error:
        kind = error.kind if isinstance(error, erllama.RowUnavailable) else "unreadable"
        found = {"name": f"rows/{row.key}.row", "kind": kind, "problem": without_folders(error.problem)}
        return None if kind == "gone" else msgspec.convert(found | {"nbytes": row.nbytes}, erllama.FileProblem)
    return None


def _lines(values: Iterable[object]) -> bytes:
    return b"".join(_encode(value) + b"\n" for value in values)
