"""Which rows there are, in which tiers, and how they hang together: the cache's memory. No I/O, no clock.

Rows form a prefix tree: a row's parent is the row that ends where it starts. Each tier holds whole chains of it, so
that what it keeps after a restart is of use by itself; a row is a *leaf* of a tier when no row there, stored or on its
way, goes on from it. Only leaves are evicted.

The same key may lie in several tiers, and there with other starts: what was cut elsewhere ends at the same place. Rows
come in any order; one whose parent is not there is an *orphan*, kept but never found.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from erllama_py.cache.keys import TOKEN_BYTES
from erllama_py.tiers.messages import RowMeta, StoredRow, TierKind

# Rows that may match a prompt for part of their span are found by the tokens that they begin with. Fewer tokens than
# these in common are not worth a row's bytes.
HEAD_TOKENS = 16

# Rows that were evicted or lost and are remembered, so that a miss can say so.
REMEMBERED = 10_000

SPEED: dict[TierKind, int] = {"ram": 0, "ram_file": 1, "disk": 2}

Loss = Literal["evicted", "bad"]


@dataclass(slots=True)
class Copy:
    """A row in one tier."""

    meta: RowMeta
    nbytes: int


@dataclass(slots=True)
class Row:
    """A key with all of its copies; `reserved` has the tiers that it is on its way to."""

    key: bytes
    copies: dict[str, Copy] = field(default_factory=dict)
    reserved: dict[str, RowMeta] = field(default_factory=dict)
    hits: int = 0
    used_at: float = 0.0
    pins: Counter[object] = field(default_factory=Counter)

    def metas(self) -> Iterator[RowMeta]:
        """What is known of it, one for each copy and reservation."""
        for copy in self.copies.values():
            yield copy.meta
        yield from self.reserved.values()


@dataclass(slots=True)
class Book:
    """What the index keeps of one tier. `kids` counts the rows there, and those on their way, that go on from a key."""

    kind: TierKind
    quota: int
    stored: int = 0  # bytes
    reserved: int = 0  # bytes of rows on their way
    removing: dict[bytes, int] = field(default_factory=dict)  # rows that the tier has not let go of yet
    leaves: OrderedDict[bytes, None] = field(default_factory=OrderedDict)  # the least recently used first
    kids: Counter[bytes] = field(default_factory=Counter)


class Children:
    """The rows that go on from one key, by where they end and by what they begin with."""

    __slots__ = ("ends", "heads")

    def __init__(self) -> None:
        self.ends: Counter[int] = Counter()
        self.heads: dict[bytes, set[bytes]] = {}


class Index:
    """See the module."""

    def __init__(self) -> None:
        self.books: dict[str, Book] = {}
        self._rows: dict[bytes, Row] = {}
        self._children: dict[bytes, Children] = {}
        self._pinned: dict[object, list[bytes]] = {}  # by holder
        self._fingerprints: Counter[bytes] = Counter()
        self._builds: dict[bytes, str] = {}
        self._lost: OrderedDict[bytes, tuple[bytes, int, Loss]] = OrderedDict()  # key → parent, end, why
        self._lost_after: dict[bytes, set[bytes]] = {}

    def __repr__(self) -> str:
        return f"<Index of {len(self._rows)} rows in {len(self.books)} tiers, {len(self._pinned)} holders of pins>"

    # --- tiers ---------------------------------------------------------------------------------------------------

    def add_tier(self, name: str, kind: TierKind, quota_bytes: int) -> None:
        """A tier runs; whatever was known of its rows is forgotten, it will tell."""
        self.remove_tier(name)
        self.books[name] = Book(kind, quota_bytes)

    def remove_tier(self, name: str) -> None:
        """Forget a tier's copies and what was on its way to it."""
        if self.books.pop(name, None) is None:
            return
        for row in list(self._rows.values()):
            if (copy := row.copies.pop(name, None)) is not None:
                self._unlink(row, copy.meta)
            if (meta := row.reserved.pop(name, None)) is not None:
                self._unlink(row, meta)
            self._forget_if_empty(row)

    def tiers(self) -> list[str]:
        """The names of all tiers."""
        return list(self.books)

    def used(self, tier: str) -> int:
        """Bytes that a tier holds, those that it has not let go of yet counted."""
        book = self.books[tier]
        return book.stored + sum(book.removing.values())

    # --- rows ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: bytes) -> Row | None:
        """The row with this key."""
        return self._rows.get(key)

    def rows(self) -> Iterator[Row]:
        """All rows that lie in some tier."""
        return (row for row in self._rows.values() if row.copies)

    def add(self, tier: str, stored: StoredRow) -> None:
        """A tier has this row. Allowed twice."""
        book = self.books.get(tier)
        if book is None:
            return
        meta = stored.meta
        if (known := self._rows.get(meta.key)) is not None and tier in known.copies:
            self.drop(tier, meta.key)
        row = self._rows.setdefault(meta.key, Row(meta.key))
        row.copies[tier] = Copy(meta, stored.nbytes)
        row.hits, row.used_at = max(row.hits, stored.hits), max(row.used_at, stored.used_at)
        book.stored += stored.nbytes
        self._link(row, meta)
        self._add_kid(book, meta.parent)
        if not book.kids[meta.key]:
            book.leaves[meta.key] = None
        self._remember_no_more(meta.key)

    def drop(self, tier: str, key: bytes, why: Loss | None = None) -> None:
        """A tier has this row no more; `why` is told to those who miss it."""
        row, book = self._rows.get(key), self.books.get(tier)
        if row is None or book is None or (copy := row.copies.pop(tier, None)) is None:
            return
        book.stored -= copy.nbytes
        book.leaves.pop(key, None)
        self._unlink(row, copy.meta)
        self._remove_kid(tier, book, copy.meta.parent)
        self._forget_if_empty(row)
        if why is not None and not row.copies:
            self._remember(copy.meta, why)

    def reserve(self, tier: str, meta: RowMeta, nbytes: int) -> None:
        """A row is on its way to a tier."""
        book = self.books[tier]
        row = self._rows.setdefault(meta.key, Row(meta.key))
        row.reserved[tier] = meta
        book.reserved += nbytes
        self._link(row, meta)
        self._add_kid(book, meta.parent)

    def unreserve(self, tier: str, meta: RowMeta, nbytes: int) -> None:
        """It has arrived, or never will."""
        row, book = self._rows.get(meta.key), self.books.get(tier)
        if row is None or book is None or row.reserved.pop(tier, None) is None:
            return
        book.reserved -= nbytes
        self._unlink(row, meta)
        self._remove_kid(tier, book, meta.parent)
        self._forget_if_empty(row)

    def touch(self, keys: Iterable[bytes], now: float) -> None:
        """These rows were used."""
        for key in keys:
            if (row := self._rows.get(key)) is not None:
                row.hits += 1
                row.used_at = now
                for tier in row.copies:
                    leaves = self.books[tier].leaves
                    if key in leaves:
                        leaves.move_to_end(key)

    def orphans(self, tier: str) -> list[bytes]:
        """Rows of a tier that nothing can reach, because a row before them is not there; children first."""
        held = {row.key: row.copies[tier].meta for row in self.rows() if tier in row.copies}
        reachable: dict[bytes, bool] = {}
        for key in sorted(held, key=lambda one: held[one].start):
            meta = held[key]
            reachable[key] = meta.start == 0 or reachable.get(meta.parent, False)
        return [key for key in sorted(held, key=lambda one: -held[one].start) if not reachable[key]]

    # --- pins ----------------------------------------------------------------------------------------------------

    def pin(self, keys: Iterable[bytes], holder: object) -> None:
        """Keep these rows from being evicted while `holder` reads them."""
        for key in keys:
            if (row := self._rows.get(key)) is not None:
                row.pins[holder] += 1
                self._pinned.setdefault(holder, []).append(key)

    def unpin_all(self, holder: object) -> None:
        """`holder` needs none of its rows any more."""
        for key in self._pinned.pop(holder, ()):
            if (row := self._rows.get(key)) is not None:
                row.pins.pop(holder, None)

    # --- who goes on from where ------------------------------------------------------------------------------------

    def ends_after(self, key: bytes) -> Iterable[int]:
        """Where the rows that go on from `key` end."""
        children = self._children.get(key)
        return () if children is None else children.ends

    def beginning_with(self, key: bytes, head: bytes) -> Iterable[Row]:
        """The rows that go on from `key` with these `HEAD_TOKENS` tokens."""
        children = self._children.get(key)
        keys = () if children is None else children.heads.get(head, ())
        return [self._rows[one] for one in keys]

    def some_after(self, key: bytes, most: int) -> list[Row]:
        """Up to `most` of the rows that go on from `key`."""
        children, found = self._children.get(key), []
        for keys in () if children is None else children.heads.values():
            found += [self._rows[one] for one in keys]
            if len(found) >= most:
                break
        return found[:most]

    def lost_after(self, key: bytes) -> list[tuple[bytes, int, Loss]]:
        """Rows that went on from `key` and are gone: key, end, why."""
        return [(one, self._lost[one][1], self._lost[one][2]) for one in self._lost_after.get(key, ())]

    def knows(self, fingerprint: bytes) -> bool:
        """Whether there is any row of this model, with whatever settings."""
        return self._fingerprints[fingerprint] > 0

    def set_build(self, fingerprint: bytes, build: str) -> None:
        """The build that runs this model now: rows of others are of no use to it."""
        self._builds[fingerprint] = build

    def is_stale(self, meta: RowMeta) -> bool:
        """Whether another build has made this row than the one that runs its model now."""
        return self._builds.get(meta.fingerprint, meta.build) != meta.build

    # --- inside --------------------------------------------------------------------------------------------------

    def _link(self, row: Row, meta: RowMeta) -> None:
        children = self._children.setdefault(meta.parent, Children())
        children.ends[meta.end] += 1
        children.heads.setdefault(head_of(meta.tokens), set()).add(row.key)
        self._fingerprints[meta.fingerprint] += 1

    def _unlink(self, row: Row, meta: RowMeta) -> None:
        """Call it when the copy or reservation is out of the row already."""
        children = self._children[meta.parent]
        children.ends[meta.end] -= 1
        if not children.ends[meta.end]:
            del children.ends[meta.end]
        if not any(other.parent == meta.parent for other in row.metas()):
            head = head_of(meta.tokens)
            children.heads[head].discard(row.key)
            if not children.heads[head]:
                del children.heads[head]
        if not children.ends:
            del self._children[meta.parent]
        self._fingerprints[meta.fingerprint] -= 1

    def _add_kid(self, book: Book, parent: bytes) -> None:
        book.kids[parent] += 1
        book.leaves.pop(parent, None)

    def _remove_kid(self, tier: str, book: Book, parent: bytes) -> None:
        book.kids[parent] -= 1
        if book.kids[parent]:
            return
        del book.kids[parent]
        row = self._rows.get(parent)
        if row is not None and tier in row.copies:
            # As old as the child that went: rows are used together with those before them.
            book.leaves[parent] = None
            book.leaves.move_to_end(parent, last=False)

    def _forget_if_empty(self, row: Row) -> None:
        if not row.copies and not row.reserved:
            self._rows.pop(row.key, None)

    def _remember(self, meta: RowMeta, why: Loss) -> None:
        self._lost[meta.key] = (meta.parent, meta.end, why)
        self._lost_after.setdefault(meta.parent, set()).add(meta.key)
        while len(self._lost) > REMEMBERED:
            self._remember_no_more(next(iter(self._lost)))

    def _remember_no_more(self, key: bytes) -> None:
        if (lost := self._lost.pop(key, None)) is not None:
            after = self._lost_after[lost[0]]
            after.discard(key)
            if not after:
                del self._lost_after[lost[0]]


def head_of(tokens: bytes) -> bytes:
    """What a row is filed under: its first tokens, all of them where it is short."""
    return tokens[: HEAD_TOKENS * TOKEN_BYTES]
