"""Removing rows: out of look-ups at once, then from their tier, when its queue gets there.

A row is forgotten when its tier has removed it. One that the tier could not remove is found again from then on, and is
the last to be chosen once more. Many rows go in portions (see `eviction`), and the event loop turns between two of
them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress

from erllama_py.actors import ActorError, Names, Reply
from erllama_py.cache.book import Book
from erllama_py.cache.chosen import chosen
from erllama_py.cache.eviction import Portions, evict_bytes, orphans, surplus
from erllama_py.cache.index import Index, Loss
from erllama_py.cache.messages import EvictBytes
from erllama_py.cache.pace import Pace
from erllama_py.cache.replaced import replaced
from erllama_py.cache.reservation import Reservations
from erllama_py.errors import TierError, TierStuck
from erllama_py.results import RowsRemoved
from erllama_py.tiers.messages import Delete, Introduce, Removed, RowMeta, Sweep, tier_actor_name
from erllama_py.watch.log import get_logger


class Removals:
    """See the module's text. `now` is unix time in seconds."""

    def __init__(
        self, index: Index, reservations: Reservations, counters: dict[str, float], names: Names,
        now: Callable[[], float], pace: Pace,
    ) -> None:  # fmt: skip
        self._index = index
        self._reservations = reservations
        self._counters = counters
        self._names = names
        self._now = now
        self._pace = pace
        self._log = get_logger()

    async def evict(self, wanted: EvictBytes) -> int:
        """See `EvictBytes`."""
        books = self._index.books
        tiers = [tier for tier, book in books.items() if tier in wanted.tiers or book.kind in wanted.tiers]
        return await self._remove(evict_bytes(self._index, tiers, wanted.nbytes, self._now()))

    async def remove(self, tier: str, keys: Sequence[bytes]) -> RowsRemoved:
        """See `Remove`."""
        taken = list[bytes]()

        def noted() -> Portions:
            for name, portion in chosen(self._index, tier, keys):
                taken.extend(portion)
                yield name, portion

        freed = await self._remove(noted())
        book = self._index.books.get(tier)
        left = [] if book is None else [key for key in {*keys, *taken} if key in book.rows or key in book.refused]
        return RowsRemoved(rows=len(set(taken).difference(left)), nbytes=freed, left=len(left))

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

    def stored(self, tier: str, meta: RowMeta) -> None:
        """A row is stored: the same of those whose place it takes. Nobody misses them."""
        book = self._index.books.get(tier)
        if book is None or meta.key not in book.replacing:
            return
        book.replacing.discard(meta.key)
        self._replace(tier, book, meta)

    def released(self) -> None:
        """Rows are not read any more: those whose place was taken meanwhile go."""
        for tier, book in self._index.books.items():
            for meta in list(book.taking.values()):
                self._replace(tier, book, meta)

    def _replace(self, tier: str, book: Book, meta: RowMeta) -> None:
        keys, later = replaced(self._index, tier, meta)
        book.taking.pop(meta.key, None)
        if later:
            book.taking[meta.key] = meta
        if keys:
            book.replaced.update(keys)
            self._delete(tier, keys, None)

    def given_up(self, tier: str, key: bytes) -> None:
        """A row will not come: what it was to take the place of stays."""
        if (book := self._index.books.get(tier)) is not None:
            book.replacing.discard(key)

    def refuse(self, tier: str, key: bytes) -> None:
        """An engine could not take this row, which the tier considers sound: hide it from look-ups.

        It is not removed: the next save of the same tokens takes its place. So an engine that is wrong costs what
        computing them again takes, and no row.
        """
        self._log.warning("an engine has refused a row", tier=tier, key=key.hex())
        self._index.refuse(tier, key)

    def done(self, removed: Removed) -> None:
        """See `Removed`."""
        tier = removed.tier
        if not removed.ok:  # what is there and what is not, only the tier can say
            with suppress(ActorError):
                self._names.cast(tier_actor_name(tier), Introduce(), bounded=False)
            return
        self._count(tier, removed.keys)
        self._reservations.confirm_removed(tier, removed.keys)
        for row in removed.left:
            self._reservations.put_back(tier, row, self._now())

    async def _gc(self, tier: str) -> int:
        if tier not in self._index.books:  # it was stopped meanwhile
            return 0
        freed = await self._remove(orphans(self._index, tier))
        return freed + await _total([self._names.call(tier_actor_name(tier), Sweep())])

    async def _remove(self, portions: Portions) -> int:
        """The bytes freed; raises `TierStuck`, once all have answered. No portion waits until the one before is
        removed: its rows could be pinned, or extended, meanwhile."""
        replies, more = list[Reply[int]](), True
        left = sum(len(book.rows) + len(book.refused) for book in self._index.books.values())
        while more:
            async with self._pace.alone:
                more = (portion := next(portions, None)) is not None
                if portion is not None and portion[1]:
                    replies += self._delete(*portion)
                    left -= len(portion[1])
            if left <= 0:  # or rows that cannot be removed, and are back by then, would be chosen for ever
                break
            await asyncio.sleep(0)
        return await _total(reply.wait() for reply in replies)

    def _count(self, tier: str, keys: Sequence[bytes]) -> None:
        """Rows are gone."""
        if (book := self._index.books.get(tier)) is None:
            return
        if evicted := [key for key in keys if key not in book.replaced]:
            self._counters[f"evicted.{tier}"] += len(evicted)
            self._counters[f"evicted_bytes.{tier}"] += sum(book.removing.get(key, 0) for key in evicted)
        if len(evicted) < len(keys):
            self._counters[f"replaced.{tier}"] += len(keys) - len(evicted)
            book.replaced.difference_update(keys)

    def _delete(self, tier: str, keys: tuple[bytes, ...], why: Loss | None = "evicted") -> list[Reply[int]]:
        """Take rows out of the index, and have their tier remove them; its pending answer, unless it is gone."""
        self._reservations.remove(tier, keys, why)
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
