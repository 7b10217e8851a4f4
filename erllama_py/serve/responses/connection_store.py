"""The answers that one connection can go on from: those that are stored, and the last one that it was given itself.

That one needs no store: it lies here as long as the connection is open and nothing fails that goes on from it.
"""

from __future__ import annotations

from collections.abc import Sequence

from erllama_py.serve.responses.store import Record, Store, encode


class ConnectionStore:
    """A `Store` over another one, for one connection; its own conversation has at most `most` bytes."""

    def __init__(self, store: Store, most: int) -> None:
        self._store, self._most = store, most
        self._last: list[Record] = []  # the newest answer, after all that it goes on from
        self._nbytes = 0

    def remember(self, before: Sequence[Record], record: Record) -> None:
        """An answer that was given, and those that it goes on from. It takes the place of the one before."""
        grows = bool(self._last) and bool(before) and before[-1] is self._last[-1]
        new = [record] if grows else [*before, record]
        self._nbytes = (self._nbytes if grows else 0) + sum(len(encode(one)) for one in new)
        self._last = [*before, record] if self._nbytes <= self._most else []

    def forget(self, response_id: str | None) -> None:
        """A turn that goes on from this answer has begun, and failed: one that is refused takes nothing away."""
        if self._last and self._last[-1].id == response_id:
            self._last = []

    async def key(self) -> bytes:
        """See `Store`."""
        return await self._store.key()

    async def put(self, tenant: str, record: Record) -> None:
        """See `Store`."""
        await self._store.put(tenant, record)

    async def chain(self, tenant: str, response_id: str) -> list[Record]:
        """See `Store`. The connection has one tenant."""
        if self._last and self._last[-1].id == response_id:
            return list(self._last)
        return await self._store.chain(tenant, response_id)

    async def delete(self, tenant: str, response_id: str) -> bool:
        """See `Store`."""
        return await self._store.delete(tenant, response_id)

    async def close(self) -> None:
        """See `Store`: it is not this connection's to close."""
