"""What all tiers have in common: the actor around a store of rows.

Owns the tier's list of its rows, and the tasks in which everything happens, so that no message waits for another one's
file. A subclass says how rows are put, read and removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import msgspec

from erllama_py.actors import Actor, ActorError, Background, Exit, MailboxClosed, NameNotFound, Reply
from erllama_py.errors import TierFailed
from erllama_py.tiers.messages import (
    CACHE,
    Delete,
    Get,
    Introduce,
    Put,
    Recheck,
    ReservationGone,
    RowBytes,
    RowLost,
    RowMeta,
    RowStored,
    StoredRow,
    Sweep,
    TierKind,
    TierMessage,
    TierReport,
    TierRows,
    TierUp,
    Touch,
)

# Rows in one report: the cache takes one in about a millisecond, also while other threads read headers.
BATCH = 64


class TierActor(Actor[TierMessage]):
    """See the module's text."""

    kind: ClassVar[str] = "tier"

    def __init__(self, tier: str, tier_kind: TierKind, quota_bytes: int) -> None:
        self.tier = tier
        self.tier_kind = tier_kind
        self.quota_bytes = quota_bytes
        self.rows: dict[bytes, StoredRow] = {}
        self.tasks = Background(tier)

    async def init(self) -> None:
        self.introduce()

    async def handle(self, message: TierMessage, reply: Reply[Any] | None) -> None:
        match message:
            case Put():
                self.tasks.answer(reply, self.put(message))
            case Get():
                self.tasks.answer(reply, self.get(message.key))
            case Delete():
                self.tasks.answer(reply, self.delete(message.keys))
            case Sweep():
                self.tasks.answer(reply, self.sweep())
            case Touch():
                self.touch(message)
            case Introduce():
                self.introduce()

    async def terminate(self, exit: Exit) -> None:
        await self.tasks.stop()

    async def put(self, message: Put) -> StoredRow:
        """See `Put`."""
        raise NotImplementedError

    async def get(self, key: bytes) -> RowBytes:
        """See `Get`."""
        raise NotImplementedError

    async def delete(self, keys: Sequence[bytes]) -> int:
        """See `Delete`."""
        raise NotImplementedError

    async def sweep(self) -> int:
        """See `Sweep`."""
        raise NotImplementedError

    def touch(self, message: Touch) -> None:
        """See `Touch`."""
        row = self.rows.get(message.key)
        if row is not None:
            self.rows[message.key] = msgspec.structs.replace(row, hits=message.hits, used_at=message.used_at)

    def introduce(self) -> None:
        """Tell the cache about this tier and the rows that are known."""
        self.tell(TierUp(self.tier, self.tier_kind, self.quota_bytes))
        self.tell_rows(tuple(self.rows.values()), 0, len(self.rows))

    def tell_rows(self, rows: Sequence[StoredRow], before: int, total: int) -> None:
        """Report rows in batches, at least one; `before` of `total` were looked at before these."""
        for start in range(0, len(rows), BATCH) if rows else (0,):
            batch = tuple(rows[start : start + BATCH])
            self.tell(TierRows(self.tier, batch, before + start + len(batch), total))

    def tell(self, report: TierReport) -> None:
        """Cast to the cache. One that is not there asks for everything once it is."""
        with suppress(NameNotFound, MailboxClosed):
            self.names.cast(CACHE, report, bounded=False)

    async def recheck(self, reservation: int) -> None:
        """Raise `ReservationGone` unless the cache still wants the row."""
        try:
            stands = await self.names.call(CACHE, Recheck(reservation))
        except ActorError as error:
            raise ReservationGone(self.tier, "the cache is not there to confirm the reservation") from error
        if not stands:
            raise ReservationGone(self.tier, "the reservation does not stand any more")

    def stored(self, reservation: int, row: StoredRow) -> StoredRow:
        """A row is published: note it, and tell the cache before anybody else."""
        self.rows[row.meta.key] = row
        self.tell(RowStored(self.tier, reservation, row))
        return row

    def lost(self, keys: Iterable[bytes], reason: str) -> None:
        """Rows are not there any more, or are not what they were."""
        for key in keys:
            self.rows.pop(key, None)
            self.tell(RowLost(self.tier, key, reason))

    def check_sizes(self, meta: RowMeta, payload: memoryview, logits: bytes) -> None:
        """Refuse a row whose bytes are not those that its description names."""
        if (payload.nbytes, len(logits)) != (meta.payload_bytes, meta.logits_bytes) or not payload.c_contiguous:
            raise TierFailed(self.tier, f"{payload.nbytes} and {len(logits)} bytes are not those of the row")
