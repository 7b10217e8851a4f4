"""The cache as an application sees it: `runtime.cache`. Bytes in, bytes out, and what is known of rows and tiers.

Models use the cache by themselves. This handle is for looking into it, for making room, and for other sources of KV
bytes: `put` and `read` need no model. What it is given is checked here (`checks`).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from erllama_py.actors import ActorError, Names
from erllama_py.cache import checks, messages
from erllama_py.cache.keys import TOKEN_BYTES, Identity, prefix_keys
from erllama_py.cache.messages import Hit, RowMeta
from erllama_py.errors import CacheUnavailable, RowUnavailable, TierNotFound
from erllama_py.results import FoundPrefix, RowInfo, RowsRemoved, TierInfo
from erllama_py.tiers.messages import CACHE, Flush, Get, RowBytes, SaveReason, tier_actor_name

_tickets = itertools.count(1)


class Cache:
    """The cache that all models share: `runtime.cache`.

    All calls raise `RequestError` for arguments that cannot be used, and `CacheUnavailable` while the cache restarts
    and after the runtime is closed. `evict_bytes`, `remove`, `gc`, `flush` and `read` raise `TierStuck` where the
    device of a tier has not answered for a minute; what was asked for goes on.
    """

    def __init__(self, names: Names) -> None:
        self._names = names

    async def counters(self) -> dict[str, float]:
        """All counters by name; the caching guide lists them."""
        counters: dict[str, float] = await self._call(messages.ReadCounters())
        return counters

    async def rows(self) -> list[RowInfo]:
        """Every row of every tier."""
        rows: list[RowInfo] = await self._call(messages.ListRows())
        return rows

    async def tiers(self) -> list[TierInfo]:
        """Every tier that runs: how full it is, how far its opening is, and whether it can be written."""
        tiers: list[TierInfo] = await self._call(messages.ListTiers())
        return tiers

    async def evict_bytes(self, nbytes: int, tiers: Sequence[str] = ("ram", "ram_file")) -> int:
        """Free at least `nbytes` bytes of tiers, given by kind or by name; the bytes freed, fewer if all is in use.

        Tiers come and go: one that does not run has nothing to free, and is no error.
        """
        freed: int = await self._call(messages.EvictBytes(checks.nbytes(nbytes), checks.tiers(tiers)))
        return freed

    async def remove(self, keys: Iterable[bytes | str], tier: str) -> RowsRemoved:
        """Remove the rows of a tier that have these keys, 32 bytes or 64 hex digits each, and all that extend them.

        Rows that are being read or saved are left, with those that they extend; kept ones go. Keys that are not there
        are no error. Raises `TierNotFound` for a tier that does not run.
        """
        wanted = tuple(map(checks.key, checks.keys(keys)))
        name = checks.tier(tier)
        running = sorted(one.name for one in await self.tiers())
        if name not in running:
            raise TierNotFound(name, tuple(running))
        removed: RowsRemoved = await self._call(messages.Remove(name, wanted))
        return removed

    async def gc(self) -> int:
        """Remove rows that nothing can reach and files that were set aside; the bytes freed."""
        freed: int = await self._call(messages.Gc())
        return freed

    async def flush(self) -> None:
        """Return when everything that was handed over before is stored or given up."""
        await self._call(Flush())

    async def put(
        self,
        identity: Identity,
        tokens: Sequence[int],
        start: int,
        payload: bytes | bytearray | memoryview,
        *,
        tier: str = "ram",
        logits: bytes = b"",
        prefill_seconds: float = 0.0,
        build: str = "",
        reason: SaveReason = "cold",
    ) -> str:
        """Save `payload` as the KV state of positions `[start, len(tokens))`; the key of the row, in hex.

        The row that ends at `start` must be there or pending. The bytes must not change until `flush` returns.
        What cannot be saved is dropped and counted, as everywhere. `prefill_seconds` is what computing these cells
        took: models read the row where it saves them time.
        """
        identity, packed, view = checks.identity(identity), checks.tokens(tokens), checks.payload(payload)
        end = len(packed) // TOKEN_BYTES
        start = checks.start(start, end)
        parent, key = prefix_keys(identity, packed, (start, end))
        meta = RowMeta(
            key=key, parent=parent, start=start, end=end, tokens=packed[TOKEN_BYTES * start :],
            fingerprint=identity.fingerprint, quant_bits=identity.quant_bits,
            ctx_params_hash=identity.ctx_params_hash, build=checks.build(build), payload_bytes=len(view),
            logits_bytes=len(checks.logits(logits)), reason=checks.reason(reason), created_at=time.time(),
            prefill_seconds=checks.seconds(prefill_seconds),
        )  # fmt: skip
        self._cast(messages.Save(row=RowBytes(meta, view, logits), tier=checks.tier(tier)))
        return key.hex()

    async def find(self, identity: Identity, tokens: Sequence[int]) -> FoundPrefix:
        """The longest saved prefix of `tokens` that ends where a row does, with the keys and tiers of its rows."""
        hit = await self._find(identity, tokens)
        rows = tuple((row.meta.key.hex(), row.tier) for row in hit.chain)
        return FoundPrefix(tokens=hit.length, exact=hit.exact, rows=rows)

    async def read(self, key: bytes | str, tier: str) -> RowBytes:
        """The bytes of a row, whole and checked; `key` is 32 bytes or 64 hex digits. Raises `RowUnavailable`."""
        key, tier = checks.key(key), checks.tier(tier)
        try:
            row: RowBytes = await self._names.call(tier_actor_name(tier), Get(key))
        except ActorError as error:
            raise RowUnavailable(tier, "the tier does not run", key, "unreadable") from error
        return row

    async def _find(self, identity: Identity, tokens: Sequence[int]) -> Hit:
        holder, ticket = f"handle {id(self)}", next(_tickets)
        question = messages.Find(
            holder=holder, request_id=ticket, identity=checks.identity(identity), tokens=checks.tokens(tokens),
            cuttable=False, tier="",
        )  # fmt: skip
        kind: messages.UsedKind = "cancelled"
        rows: tuple[messages.Located, ...] = ()
        try:
            hit: Hit = await self._call(question)
            kind, rows = "exact" if hit.exact else "partial" if hit.chain else "cold", hit.chain
        finally:
            # Also if the answer came and the task was cancelled before it ran: nothing else frees these rows.
            with suppress(CacheUnavailable):
                self._cast(messages.Used(holder=holder, request_id=ticket, kind=kind, rows=rows, seconds=0.0))
        return hit

    async def _call(self, message: messages.CacheMessage) -> Any:
        try:
            return await self._names.call(CACHE, message)
        except ActorError as error:
            raise CacheUnavailable from error

    def _cast(self, message: messages.CacheMessage) -> None:
        try:
            self._names.cast(CACHE, message, bounded=False)
        except ActorError as error:
            raise CacheUnavailable from error
