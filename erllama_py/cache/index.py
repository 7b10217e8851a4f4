"""Which rows there are, in which tiers, and which extends which: the cache's memory. No I/O, no clock.

Rows form a prefix tree: a row's parent is the row that ends where it starts. Each tier holds whole chains of it, so
that its rows are usable without other tiers after a restart, and has its own book (`book`); a row is a *leaf* of a tier
when no row there, stored or pending, extends it. Only leaves are evicted.

The same key may lie in several tiers with different starts: spans that were cut differently may end at the same place.
Rows come in any order; one to which no chain leads from position 0 is an *orphan*: never found, and kept until its
chain is whole again, until a row with its key is saved with another start, or until it is evicted.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Literal

import msgspec

from erllama_py.cache.book import Book, Copy, is_turn
from erllama_py.cache.keys import Identity
from erllama_py.cache.orders import Child
from erllama_py.cache.sane import MOST_HITS
from erllama_py.tiers.messages import RowMeta, StoredRow

Loss = Literal["evicted", "bad"]
REMEMBERED = 10_000


class Entry(msgspec.Struct, frozen=True):
    """A key with all of its copies, as they are now; `reserved` has the tiers in which it is pending."""

    key: bytes
    copies: dict[str, Copy]
    reserved: dict[str, RowMeta]

    @property
    def hits(self) -> int:
        """How often it was used: the same in all copies."""
        return max((copy.hits for copy in self.copies.values()), default=0)

    @property
    def used_at(self) -> float:
        """When it was last used."""
        return max((copy.used_at for copy in self.copies.values()), default=0.0)

    def metas(self) -> Iterator[RowMeta]:
        """What is known of it, one for each copy and reservation."""
        for copy in self.copies.values():
            yield copy.meta
        yield from self.reserved.values()


class Losses:
    """Rows that were evicted or found bad, the last `REMEMBERED` of them, so that a miss can name its reason."""

    def __init__(self) -> None:
        self._lost: OrderedDict[bytes, tuple[bytes, int, Loss]] = OrderedDict()  # key → parent, end, why
        self._ends: dict[bytes, Counter[int]] = {}  # parent → where they ended
        self._turns: OrderedDict[bytes, None] = OrderedDict()  # what turns were found by

    def add(self, meta: RowMeta, why: Loss) -> None:
        """A row is gone."""
        if is_turn(meta):
            self._turns[meta.ctx_params_hash] = None
            if len(self._turns) > REMEMBERED:
                self._turns.popitem(last=False)
            return
        self.forget(meta.key)
        self._lost[meta.key] = (meta.parent, meta.end, why)
        self._ends.setdefault(meta.parent, Counter())[meta.end] += 1
        while len(self._lost) > REMEMBERED:
            self.forget(next(iter(self._lost)))

    def forget(self, key: bytes) -> None:
        """It is back, or was lost too long ago."""
        if (lost := self._lost.pop(key, None)) is None:
            return
        parent, end, _ = lost
        ends = self._ends[parent]
        ends[end] -= 1
        if not ends[end]:
            del ends[end]
        if not ends:
            del self._ends[parent]

    def has_turn(self, found_by: bytes) -> bool:
        """Whether a turn was lost that this found."""
        return found_by in self._turns

    def ends_after(self, key: bytes) -> Iterable[int]:
        """Where rows ended that extended `key`."""
        return self._ends.get(key, ())

    def why(self, key: bytes) -> Loss | None:
        """Why a row is gone; None if it is there, or never was, or is forgotten."""
        lost = self._lost.get(key)
        return None if lost is None else lost[2]


class Index:
    def __init__(self) -> None:
        self.books: dict[str, Book] = {}
        self.losses = Losses()
        self._pinned_by: dict[object, list[bytes]] = {}  # keys by the holder that pins them
        self._pins: Counter[bytes] = Counter()

    def __repr__(self) -> str:
        return f"<Index of {len(self)} rows in {len(self.books)} tiers, {len(self._pinned_by)} holders of pins>"

    # --- tiers ---------------------------------------------------------------------------------------------------

    def add_tier(self, name: str, kind: str, quota_bytes: int) -> None:
        """A tier runs; what was known of its rows is forgotten; it reports them."""
        self.books[name] = Book(kind, quota_bytes, self._pins)

    def remove_tier(self, name: str) -> Book | None:
        """Forget a tier's rows, pending ones too; returns its book, to be freed."""
        return self.books.pop(name, None)

    @property
    def is_opening(self) -> bool:
        """Whether any tier may have rows that are not known yet."""
        return any(book.opened < 1.0 for book in self.books.values())

    # --- rows ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many rows there are and will be, each once for every tier."""
        return sum(map(len, self.books.values()))

    def get(self, key: bytes) -> Entry | None:
        """The row with this key."""
        copies = {name: copy for name, book in self.books.items() if (copy := book.rows.get(key)) is not None}
        pending = {name: meta for name, book in self.books.items() if (meta := book.pending.get(key)) is not None}
        return Entry(key, copies, pending) if copies or pending else None

    def rows(self) -> Iterator[Entry]:
        """All rows that lie in some tier now, those that are gone when their turn comes left out."""
        books = list(self.books.values())
        for number, book in enumerate(books):
            for key in list(book.rows):  # a copy of a hundred thousand takes a millisecond
                if any(key in other.rows for other in books[:number]):
                    continue
                if (row := self.get(key)) is not None and row.copies:
                    yield row

    def add(self, tier: str, stored: StoredRow) -> None:
        """A tier has this row. Allowed twice."""
        if tier not in self.books:
            return
        key = stored.meta.key
        known = self.get(key)
        self.books[tier].add(stored)
        if known is not None and known.copies:
            self._use(key, max(known.hits, stored.hits), max(known.used_at, stored.used_at))
        self.losses.forget(key)

    def drop(self, tier: str, key: bytes, why: Loss | None = None) -> None:
        """A tier has this row no more; `why` is what look-ups that miss it report."""
        book = self.books.get(tier)
        copy = None if book is None else book.drop(key)
        if copy is not None and why is not None and not any(key in other.rows for other in self.books.values()):
            self.losses.add(copy.meta, why)

    def refuse(self, tier: str, key: bytes) -> None:
        """An engine could not take this row: see `Book.refuse`."""
        book = self.books.get(tier)
        copy = None if book is None else book.refuse(key)
        if copy is not None and not any(key in other.rows for other in self.books.values()):
            self.losses.add(copy.meta, "bad")

    def touch(self, keys: Iterable[bytes], now: float) -> None:
        """These rows were used."""
        for key in keys:
            if (row := self.get(key)) is not None:
                self._use(key, min(row.hits + 1, MOST_HITS), now)

    # --- pins ----------------------------------------------------------------------------------------------------

    def pin(self, keys: Iterable[bytes], holder: object) -> None:
        """Keep these rows from being evicted while `holder` reads them; also if they are forgotten and come back."""
        mine = self._pinned_by.setdefault(holder, [])
        for key in keys:
            mine.append(key)
            self._pins[key] += 1
            if self._pins[key] == 1:
                for book in self.books.values():
                    book.pinned(key)

    def unpin(self, holder: object) -> Iterator[bytes]:
        """`holder` needs none of its rows any more: free one after the other, and give its key."""
        for key in self._pinned_by.pop(holder, ()):
            self._pins[key] -= 1
            if not self._pins[key]:
                del self._pins[key]
                for book in self.books.values():
                    book.unpinned(key)
            yield key

    def unpin_all(self, holder: object) -> None:
        """The same at once."""
        for _ in self.unpin(holder):
            pass

    def is_pinned(self, key: bytes) -> bool:
        """Whether any holder has pinned this row."""
        return self._pins[key] > 0

    # --- which row extends which, in whatever tier ----------------------------------------------------------------

    def furthest(self, key: bytes, end: int) -> int:
        """Where the longest row ends that extends `key`, which ends at `end`; 0 if there is none."""
        return max((book.links.furthest(key, end) for book in self.books.values()), default=0)

    def on_path(self, key: bytes, start: int, tokens: bytes) -> Iterator[Child | None]:
        """The rows that extend `key`, which ends at `start`, and are wholly part of packed `tokens`; one may come
        twice. None for a look in vain."""
        return chain.from_iterable(book.links.on_path(key, start, tokens) for book in self.books.values())

    def nearest(self, key: bytes, start: int, tokens: bytes) -> Iterator[tuple[int, bytes, Entry]]:
        """The rows that extend `key`, which ends at `start`, by what they have in common with packed `tokens`.

        The tokens in common, the row's tokens and the row, those with most in common first; a row comes once for each
        tier that has or will have it.
        """
        found = [book.links.nearest(key, start, tokens) for book in self.books.values()]
        for common, child in heapq.merge(*found, key=lambda one: -one[0]):
            if (row := self.get(child.key)) is not None:
                yield common, child.tokens, row

    def kept_until(self, tier: str, key: bytes) -> float | None:
        """Until when a tier keeps a row; None where nothing keeps it."""
        book = self.books.get(tier)
        return None if book is None else book.keeps.until(key)

    # --- models --------------------------------------------------------------------------------------------------

    def has_others(self, identity: Identity) -> bool:
        """Whether there is any row of the same model with other settings."""
        return any(book.has_others(identity) for book in self.books.values())

    def _use(self, key: bytes, hits: int, used_at: float) -> None:
        for book in self.books.values():
            book.use(key, hits, used_at)
