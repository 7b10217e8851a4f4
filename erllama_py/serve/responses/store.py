"""Where answers are kept: the protocol, and the form in memory.

Each tenant has its own answers, at most so many and so many bytes; those that were longest unused go first. A turn of a
conversation uses all turns before it, so one that goes on is kept whole.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec


class Said(msgspec.Struct, frozen=True):
    """What a turn needs of an answer before it."""

    model: str
    """The name of the model that gave it."""
    output: list[dict[str, Any]]
    """Its items."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, and what it was an answer to."""

    id: str
    """Of the answer, as the server has made it."""
    previous: str | None
    """The answer that it goes on from."""
    session: str
    """Of its conversation: see `session_id`."""
    input: list[dict[str, Any]]
    """The items of its own request."""
    response: msgspec.Raw
    """What the client was given, as JSON. It stays so: most of it is not needed for another turn."""

    def said(self) -> Said:
        """What the next turn needs of it."""
        return msgspec.json.decode(self.response, type=Said)


class NotKept(Exception):
    """An answer is larger than all that a tenant may store, or there is no room to write it."""


class Store(Protocol):
    """Keeps answers by tenant and id. A tenant is told by a name that is safe as a file's."""

    async def key(self) -> bytes:
        """The key of this server's seals; it lives as long as the answers do."""

    async def put(self, tenant: str, record: Record) -> None:
        """Keep an answer. Raises `NotKept`."""

    async def chain(self, tenant: str, response_id: str) -> list[Record]:
        """An answer after all that it goes on from, the first of them first, as far back as they are there.

        Empty where there is none of this id. The last one's turn is counted as a use of all of them.
        """

    async def delete(self, tenant: str, response_id: str) -> bool:
        """Forget an answer; whether it was there."""

    async def close(self) -> None:
        """Nothing will be asked any more. Allowed twice."""


class Shelf:
    """The ids of one tenant with their sizes in bytes, by their last use. Decides who goes."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self.nbytes = 0

    def __contains__(self, response_id: str) -> bool:
        return response_id in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def fits(self, size: int) -> bool:
        """Whether an answer of this size can be kept at all."""
        return size <= self._most_bytes

    def add(self, response_id: str, size: int) -> list[str]:
        """One more, the newest; those that have to go for it."""
        self.remove(response_id)
        self._sizes[response_id] = size
        self.nbytes += size
        gone = list[str]()
        while len(self._sizes) > self._most or self.nbytes > self._most_bytes:
            oldest = next(iter(self._sizes))
            self.remove(oldest)
            gone.append(oldest)
        return gone

    def use(self, response_id: str) -> None:
        """It is the newest again."""
        if response_id in self._sizes:
            self._sizes.move_to_end(response_id)

    def remove(self, response_id: str) -> bool:
        """Whether it was there."""
        size = self._sizes.pop(response_id, None)
        self.nbytes -= size or 0
        return size is not None


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Record).decode


class MemoryStore:
    """Keeps answers as long as the process lives."""

    def __init__(self, most: int, most_bytes: int, key: bytes) -> None:
        self._bounds = (most, most_bytes)
        self._key = key
        self._shelves: dict[str, Shelf] = {}
        self._records: dict[tuple[str, str], bytes] = {}

    async def key(self) -> bytes:
        """See `Store`."""
        return self._key

    async def put(self, tenant: str, record: Record) -> None:
        """See `Store`."""
        data = encode(record)
        shelf = self._shelves.setdefault(tenant, Shelf(*self._bounds))
        if not shelf.fits(len(data)):
            raise NotKept
        self._records[tenant, record.id] = data
        for gone in shelf.add(record.id, len(data)):
            del self._records[tenant, gone]

    async def chain(self, tenant: str, response_id: str) -> list[Record]:
        """See `Store`."""
        found = [*self._back(tenant, response_id)][::-1]
        for record in found:
            self._shelves[tenant].use(record.id)
        return found

    def _back(self, tenant: str, response_id: str | None) -> Iterator[Record]:
        while response_id is not None and (data := self._records.get((tenant, response_id))) is not None:
            record = decode(data)
            yield record
            response_id = record.previous

    async def delete(self, tenant: str, response_id: str) -> bool:
        """See `Store`."""
        self._records.pop((tenant, response_id), None)
        shelf = self._shelves.get(tenant)
        return shelf is not None and shelf.remove(response_id)

    async def close(self) -> None:
        """See `Store`."""
