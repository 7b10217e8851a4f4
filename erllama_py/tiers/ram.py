"""A tier in this process's memory.

Owns copies of the rows' bytes. They are never changed, so a `Get` hands out a read-only view of them; memory is free
once the row is deleted and the last such view is gone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from erllama_py import shared_memory
from erllama_py.actors import Exit, Threads
from erllama_py.errors import RowUnavailable, TierFull
from erllama_py.options.tiers import RamTier as RamSpec
from erllama_py.tiers.base import TierActor
from erllama_py.tiers.ledger import on_disk
from erllama_py.tiers.messages import Put, RowBytes, StoredRow

Bytes = tuple[memoryview, bytes]


class RamTier(TierActor):
    def __init__(self, name: str, spec: RamSpec) -> None:
        super().__init__(name, spec.kind, spec.quota_bytes)
        self.used = 0  # bytes of all rows
        self._bytes: dict[bytes, Bytes] = {}
        self._copying = Threads(f"{name}-copy", 1)

    async def init(self) -> None:
        await self._copying.begin()
        await super().init()

    async def terminate(self, exit: Exit) -> None:
        await super().terminate(exit)
        self._copying.close()

    async def put(self, message: Put) -> StoredRow:
        row, meta = message.row, message.row.meta
        self.check_sizes(row)
        # Pages are counted, and the tokens and names of a row too, as they are most of a small row.
        nbytes = on_disk(meta.payload_bytes) + on_disk(meta.logits_bytes + len(meta.tokens))
        if self.used + nbytes > self.quota_bytes:
            raise TierFull(self.tier, f"{nbytes} bytes do not fit: {self.used} of {self.quota_bytes} are taken")
        payload = await self._copying.run(_copy, row.payload)
        await self.recheck(message.reservation)
        self._drop(meta.key)
        self.used += nbytes
        self._bytes[meta.key] = payload, bytes(row.logits)
        return self.stored(message.reservation, StoredRow(meta=meta, nbytes=nbytes, hits=0, used_at=meta.created_at))

    async def get(self, key: bytes) -> RowBytes:
        row = self.rows.get(key)
        if row is None:  # nothing but a `Delete` takes a row away: the cache knows
            raise RowUnavailable(self.tier, "the row is gone", key)
        return RowBytes(row.meta, *self._bytes[key])

    async def delete(self, keys: Sequence[bytes]) -> int:
        return sum(map(self._drop, keys))

    async def sweep(self) -> int:
        return 0

    def _drop(self, key: bytes) -> int:
        row = self.rows.pop(key, None)
        if row is None:
            return 0
        del self._bytes[key]
        self.used -= row.nbytes
        return row.nbytes


def _copy(payload: memoryview) -> memoryview:
    """A copy of its own, read-only, where engines in other processes can read it; the interpreter's lock is free
    meanwhile."""
    copy = shared_memory.allocate(payload.nbytes)
    numpy.copyto(copy, numpy.frombuffer(payload, numpy.uint8))
    return copy.data.toreadonly()
