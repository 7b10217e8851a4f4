"""Room for pending rows: reserved before a byte is written, given back where nothing was stored.

`reserve` decides whether a row is wanted, and which rows must go for it. A reservation stands until it is settled or
released; when it is released, so is every one that extends it, for a tier holds whole chains. Bytes of rows that are to
go count until the tier has removed them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Literal

import msgspec

from erllama_py.cache.book import Book, is_turn
from erllama_py.cache.eviction import PORTION, choose_turns, choose_victims
from erllama_py.cache.index import Index, Loss
from erllama_py.tiers.messages import RowMeta, StoredRow


class Reserved(msgspec.Struct, frozen=True):
    """The row may be written, once the victims are out of the tier."""

    id: int
    victims: tuple[bytes, ...]


class Refused(msgspec.Struct, frozen=True):
    """The row is not wanted, or cannot be had.

    `victims` are to be removed all the same: this row needs more room than one portion of evictions gives, and a later
    one will find it.
    """

    reason: Literal["duplicate", "no_room", "no_parent", "no_tier", "too_large"]
    victims: tuple[bytes, ...] = ()


# Shared by all of a process: a cache that was restarted must not take a save of the one before it for its own.
_IDS = itertools.count(1)

# What a tier adds to a row's bytes at most: a header in whole pages, and the rest of the last page.
OVERHEAD = 3 * 4096


def row_bytes(meta: RowMeta) -> int:
    """Most bytes that a row takes in any tier."""
    return meta.payload_bytes + meta.logits_bytes + len(meta.tokens) + OVERHEAD


class Reservation(msgspec.Struct, frozen=True):
    """A reservation that stands."""

    tier: str
    meta: RowMeta
    nbytes: int


class Reservations:
    """All that stand, over one index."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._open: dict[int, Reservation] = {}
        self._by_key: dict[bytes, set[int]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def reserve(self, meta: RowMeta, tier: str, nbytes: int, now: float) -> Reserved | Refused:
        """Room for a row of `nbytes` bytes at most. Its victims are out of the index from here on."""
        index = self._index
        book = index.books.get(tier)
        if book is None:
            return Refused("no_tier")
        copy = book.rows.get(meta.key)
        # A copy that no chain leads to is useless: it is replaced.
        if meta.key in book.pending or (copy is not None and book.is_reachable(copy.meta)):
            return Refused("duplicate")
        if nbytes > book.quota:
            return Refused("too_large")
        if not book.is_reachable(meta):
            return Refused("no_parent")
        # Reserved first: so the row that it extends is no leaf, and no victim.
        book.reserve(meta, nbytes)
        turns, fits = self._room_for_turn(meta, book, tier, now)
        victims, freed = choose_victims(index, tier, book.excess(), now) if fits else ((), 0)
        if not fits or freed < book.excess():
            book.unreserve(meta, nbytes)
            return Refused("no_room", turns + (victims if len(victims) == PORTION else ()))
        self.remove(tier, victims)
        number = next(_IDS)
        self._open[number] = Reservation(tier, meta, nbytes)
        self._by_key.setdefault(meta.key, set()).add(number)
        return Reserved(number, turns + victims)

    def _room_for_turn(self, meta: RowMeta, book: Book, tier: str, now: float) -> tuple[tuple[bytes, ...], bool]:
        """Older turns that a turn takes the room of, out of the index already; and whether it fits into their share."""
        if not is_turn(meta) or (excess := book.turn_excess()) <= 0:
            return (), True
        turns, freed = choose_turns(self._index, tier, excess, now)
        self.remove(tier, turns)
        return turns, freed >= excess

    def stands(self, number: int) -> bool:
        """Whether this row is still wanted, and the rows before it are still there or pending."""
        one = self._open.get(number)
        book = None if one is None else self._index.books.get(one.tier)
        return one is not None and book is not None and book.is_reachable(one.meta)

    def make_room(self, number: int, nbytes: int, now: float) -> tuple[bytes, ...]:
        """The tier of this pending row has no room for it: rows of `nbytes` bytes that go for it, out of the index
        already. None where they would be too few, or too many have gone in vain; see `Shortage`."""
        one = self._open.get(number)
        book = None if one is None else self._index.books.get(one.tier)
        if one is None or book is None:
            return ()
        book.was_full()
        if nbytes > book.stored or not book.shortage.allows(book.stored, now):
            return ()
        victims, freed = choose_victims(self._index, one.tier, nbytes, now)
        if freed < nbytes and len(victims) < PORTION:
            return ()
        book.shortage.made(number, freed)
        self.remove(one.tier, victims)
        return victims

    def end_of(self, key: bytes) -> int | None:
        """Where the row with this key ends, if it is pending."""
        numbers = self._by_key.get(key)
        return self._open[next(iter(numbers))].meta.end if numbers else None

    def settle(self, number: int) -> None:
        """The row is stored; the index is updated separately."""
        if (closed := self._close(number)) is not None and (book := self._index.books.get(closed.tier)) is not None:
            book.shortage.stored(number, closed.nbytes)

    def release(self, number: int) -> list[bytes]:
        """The row will not come, nor any that extends it in that tier; their keys."""
        released, falling = list[bytes](), [number]
        while falling:
            given_up = falling.pop()
            if (closed := self._close(given_up)) is not None:
                released.append(closed.meta.key)
                falling += self._extending(closed)
                if (book := self._index.books.get(closed.tier)) is not None:
                    book.shortage.failed(given_up)
        return released

    def release_tier(self, tier: str) -> list[bytes]:
        """A tier is gone with its pending rows; their keys."""
        numbers = [number for number, one in self._open.items() if one.tier == tier]
        return [closed.meta.key for number in numbers if (closed := self._close(number)) is not None]

    def remove(self, tier: str, keys: Iterable[bytes], why: Loss | None = "evicted") -> None:
        """Take rows out of the index that a tier is about to be asked to remove."""
        if (book := self._index.books.get(tier)) is not None:
            for key in keys:
                if (copy := book.rows.get(key) or book.refused.get(key)) is not None:
                    book.removing[key] = copy.nbytes
                    self._index.drop(tier, key, why)

    def confirm_removed(self, tier: str, keys: Iterable[bytes]) -> None:
        """The tier has removed them."""
        if (book := self._index.books.get(tier)) is not None:
            for key in keys:
                # A tier that was asked for its rows meanwhile has reported it again before it removed it.
                if book.removed(key) is None:
                    self._index.drop(tier, key, "evicted")

    def put_back(self, tier: str, row: StoredRow, now: float) -> None:
        """The tier could not remove this row, and has it as before."""
        if (book := self._index.books.get(tier)) is not None:
            book.stick(row.meta.key, now)
            self._index.add(tier, row)

    def _extending(self, parent: Reservation) -> list[int]:
        book = self._index.books.get(parent.tier)
        keys = set(book.links.children(parent.meta.key, parent.meta.end)) if book is not None else ()
        numbers = itertools.chain.from_iterable(self._by_key.get(key, ()) for key in keys)
        return [
            number
            for number in numbers
            if (one := self._open[number]).tier == parent.tier and one.meta.parent == parent.meta.key
        ]

    def _close(self, number: int) -> Reservation | None:
        closed = self._open.pop(number, None)
        if closed is None:
            return None
        numbers = self._by_key[closed.meta.key]
        numbers.discard(number)
        if not numbers:
            del self._by_key[closed.meta.key]
        if (book := self._index.books.get(closed.tier)) is not None:
            book.unreserve(closed.meta, closed.nbytes)
        return closed
