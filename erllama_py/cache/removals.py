"""Removing rows: from the index at once, then from their tier, when its queue gets there.

Owns the rows that an engine has refused while others still read them. Many rows go in portions (see `eviction`), and
the event loop turns between two of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from erllama_py.actors import ActorError, Names, Reply
from erllama_py.cache.eviction import Portions, evict_bytes, orphans, surplus
from erllama_py.cache.index import Index
from erllama_py.cache.messages import EvictBytes
from erllama_py.cache.reservation import Reservations
from erllama_py.errors import TierError, TierStuck
from erllama_py.tiers.messages import Delete, Introduce, Removed, Sweep, tier_actor_name
from erllama_py.watch.log import get_logger


class Removals:
    """See the module's text. `now` is unix time in seconds."""

    def __init__(
        self, index: Index, reservations: Reservations, counters: dict[str, float], names: Names,
        now: Callable[[], float],
    ) -> None:  # fmt: skip
        self._index = index
        self._reservations = reservations
        self._counters = counters
        self._names = names
        self._now = now
        self._refused: set[tuple[str, bytes]] = set()
        self._log = get_logger()

    async def evict(self, wanted: EvictBytes) -> int:
        """See `EvictBytes`."""
        books = self._index.books
        tiers = [tier for tier, book in books.items() if tier in wanted.tiers or book.kind in wanted.tiers]
        return await self._remove(evict_bytes(self._index, tiers, wanted.nbytes, self._now()))

    async def gc(self) -> int:
        """See `Gc`."""
        return await _total(self._gc(tier) for tier in list(self._index.books))

    async def shrink(self, tier: str) -> None:
        """A tier that was opened with a smaller quota than it was filled under gives up the excess."""
        with suppress(TierStuck):  # no call waits for it
            await self._remove(surplus(self._index, tier, self._now()))

    def drop(self, tier: str, keys: tuple[bytes, ...]) -> None:
        """Hide these rows from look-ups now; their tier removes them when its queue gets there."""
        if keys:
            self._delete(tier, keys)
            self._count(tier, keys)

    def refuse(self, tier: str, key: bytes) -> None:
        """An engine cannot take this row, which the tier still considers sound: hide it from look-ups."""
        self._log.warning("an engine has refused a row", tier=tier, key=key.hex())
        self._reservations.remove(tier, (key,), "bad")
        self._refused.add((tier, key))
        self.unpinned()

    def unpinned(self) -> None:
        """Pins were released: refused rows that are not read any more go now."""
        for tier, key in [one for one in self._refused if not self._index.is_pinned(one[1])]:
            book = self._index.books.get(tier)
            if book is None or key not in book.pending:  # else it is about to be replaced
                self._refused.discard((tier, key))
                self._delete(tier, (key,))

    def replaced(self, tier: str, key: bytes) -> None:
        """A row was stored. A refused one of the same key is replaced by it, and the new one stays."""
        if (tier, key) in self._refused:
            self._refused.discard((tier, key))
            self._index.books[tier].removing.pop(key, None)

    def done(self, removed: Removed) -> None:
        """See `Removed`."""
        if removed.ok:
            self._reservations.confirm_removed(removed.tier, removed.keys)
        else:  # what is there and what is not, only the tier can say
            with suppress(ActorError):
                self._names.cast(tier_actor_name(removed.tier), Introduce(), bounded=False)

    async def _gc(self, tier: str) -> int:
        if tier not in self._index.books:  # it was stopped meanwhile
            return 0
        freed = await self._remove(orphans(self._index, tier))
        return freed + await _total([self._names.call(tier_actor_name(tier), Sweep())])

    async def _remove(self, portions: Portions) -> int:
        """The bytes freed; raises `TierStuck`, once all have answered. No portion waits until the one before is
        removed: its rows could be pinned, or extended, meanwhile."""
        replies = list[Reply[int]]()
        for tier, keys in portions:
            if keys:
                replies += self._delete(tier, keys)
                self._count(tier, keys)
            await asyncio.sleep(0)
        return await _total(reply.wait() for reply in replies)

    def _count(self, tier: str, keys: tuple[bytes, ...]) -> None:
        """Rows are out of the index, and about to go."""
        book = self._index.books.get(tier)
        self._counters[f"evicted.{tier}"] += len(keys)
        self._counters[f"evicted_bytes.{tier}"] += 0 if book is None else sum(book.removing.get(key, 0) for key in keys)

    def _delete(self, tier: str, keys: tuple[bytes, ...]) -> list[Reply[int]]:
        """Take rows out of the index, and have their tier remove them; its pending answer, unless it is gone."""
        self._reservations.remove(tier, keys)
        actor = self._names.whereis(tier_actor_name(tier))
        with suppress(ActorError):
            return [actor.begin_call(Delete(keys))] if actor is not None else []
        return []


async def _total(answers: Iterable[Awaitable[int]]) -> int:
    """The sum of what tiers have freed; raises `TierStuck`, once all have answered."""
    freed, stuck = 0, None
    for answer in answers:
        try:
            freed += await answer
        except TierStuck as error:
            stuck = error
        except (ActorError, TierError):  # a tier that failed, or ended before it got there
            pass
    if stuck is not None:
        raise stuck
    return freed
