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

import msgspec

from erllama_py.cache.keys import TOKEN_BYTES
from erllama_py.cache.leaves import Leaves
from erllama_py.cache.siblings import Child, Siblings
from erllama_py.tiers.messages import RowMeta, StoredRow, TierKind

# Rows that were evicted or lost and are remembered, so that a miss can say so.
REMEMBERED = 10_000

SPEED: dict[TierKind, int] = {"ram": 0, "ram_file": 1, "disk": 2}

Loss = Literal["evicted", "bad"]


class Copy(msgspec.Struct, gc=False):
    """A row in one tier."""

    meta: RowMeta
    nbytes: int


class Row(msgspec.Struct, gc=False):
    """A key with all of its copies; `reserved` has the tiers that it is on its way to."""

    key: bytes
    copies: dict[str, Copy] = msgspec.field(default_factory=dict)
    reserved: dict[str, RowMeta] = msgspec.field(default_factory=dict)
    hits: int = 0
    used_at: float = 0.0

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
    leaves: Leaves = field(default_factory=Leaves)
    kids: Counter[bytes] = field(default_factory=Counter)


class Index:
    """See the module."""

    def __init__(self) -> None:
        self.books: dict[str, Book] = {}
        self._rows: dict[bytes, Row] = {}
        self._children: dict[bytes, Child | Siblings] = {}
        self._held: dict[object, list[bytes]] = {}  # keys by the holder that pins them
        self._pins: Counter[bytes] = Counter()
        self._fingerprints: Counter[bytes] = Counter()
        self._builds: dict[bytes, str] = {}
        self._lost: OrderedDict[bytes, tuple[bytes, int, Loss]] = OrderedDict()  # key → parent, end, why
        self._lost_ends: dict[bytes, Counter[int]] = {}  # parent → where they ended

    def __repr__(self) -> str:
        return f"<Index of {len(self._rows)} rows in {len(self.books)} tiers, {len(self._held)} holders of pins>"

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
                self._unlink(copy.meta)
            if (meta := row.reserved.pop(name, None)) is not None:
                self._unlink(meta)
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
        row = self._rows.setdefault(meta.key, Row(meta.key))
        if tier in row.copies:
            self._take_out(row, tier, book)
        row.copies[tier] = Copy(meta, stored.nbytes)
        row.hits, row.used_at = max(row.hits, stored.hits), max(row.used_at, stored.used_at)
        book.stored += stored.nbytes
        self._link(meta)
        self._add_kid(book, meta.parent)
        self._place(row)
        self._remember_no_more(meta.key)

    def drop(self, tier: str, key: bytes, why: Loss | None = None) -> None:
        """A tier has this row no more; `why` is told to those who miss it."""
        row, book = self._rows.get(key), self.books.get(tier)
        if row is None or book is None or tier not in row.copies:
            return
        copy = self._take_out(row, tier, book)
        self._forget_if_empty(row)
        if why is not None and not row.copies:
            self._remember(copy.meta, why)

    def reserve(self, tier: str, meta: RowMeta, nbytes: int) -> None:
        """A row is on its way to a tier."""
        book = self.books[tier]
        row = self._rows.setdefault(meta.key, Row(meta.key))
        row.reserved[tier] = meta
        book.reserved += nbytes
        self._link(meta)
        self._add_kid(book, meta.parent)

    def unreserve(self, tier: str, meta: RowMeta, nbytes: int) -> None:
        """It has arrived, or never will."""
        row, book = self._rows.get(meta.key), self.books.get(tier)
        if row is None or book is None or row.reserved.pop(tier, None) is None:
            return
        book.reserved -= nbytes
        self._unlink(meta)
        self._remove_kid(tier, book, meta.parent)
        self._forget_if_empty(row)

    def touch(self, keys: Iterable[bytes], now: float) -> None:
        """These rows were used."""
        for key in keys:
            if (row := self._rows.get(key)) is not None:
                row.hits += 1
                row.used_at = now
                self._place(row)

    def has_parent(self, tier: str, meta: RowMeta) -> bool:
        """Whether what this row goes on from is in that tier, or on its way there; always so at position 0."""
        if meta.start == 0:
            return True
        parent = self._rows.get(meta.parent)
        return parent is not None and (tier in parent.copies or tier in parent.reserved)

    def orphans(self, tier: str) -> list[bytes]:
        """Rows of a tier whose chain is broken there, because a row before them is gone; children first.

        Those that are pinned are left out: they are read by somebody who found them before, or through another tier.
        """
        held = {row.key: row.copies[tier].meta for row in self.rows() if tier in row.copies}
        reachable: dict[bytes, bool] = {}
        for key in sorted(held, key=lambda one: held[one].start):
            meta = held[key]
            reachable[key] = meta.start == 0 or reachable.get(meta.parent, False)
        return [
            key for key in sorted(held, key=lambda one: -held[one].start) if not reachable[key] and not self._pins[key]
        ]

    # --- pins ----------------------------------------------------------------------------------------------------

    def pin(self, keys: Iterable[bytes], holder: object) -> None:
        """Keep these rows from being evicted while `holder` reads them; also if they are forgotten and come back."""
        keys = list(keys)
        self._pins.update(keys)
        self._held.setdefault(holder, []).extend(keys)

    def unpin_all(self, holder: object) -> None:
        """`holder` needs none of its rows any more."""
        for key in self._held.pop(holder, ()):
            self._pins[key] -= 1
            if not self._pins[key]:
                del self._pins[key]

    def is_pinned(self, key: bytes) -> bool:
        """Whether somebody reads this row."""
        return self._pins[key] > 0

    # --- who goes on from where ------------------------------------------------------------------------------------

    def ends_after(self, key: bytes) -> Iterable[int]:
        """Where the rows that go on from `key` end."""
        children = self._children.get(key)
        return () if children is None else children.ends

    def nearest(self, key: bytes, start: int, tokens: bytes) -> Iterator[tuple[int, bytes, Row]]:
        """The rows that go on from `key`, which ends at `start`, by what they have in common with packed `tokens`.

        The tokens in common, the row's tokens and the row, those with most in common first; a row comes once for each
        tier that has or will have it.
        """
        children = self._children.get(key)
        if children is not None:
            # Cut where the longest row ends, so that no long prompt is copied for a short row.
            rest = tokens[TOKEN_BYTES * start : TOKEN_BYTES * max(children.ends)]
            for common, child in children.nearest(rest):
                yield common, child.tokens, self._rows[child.key]

    def lost_ends(self, key: bytes) -> Iterable[int]:
        """Where rows ended that went on from `key` and are gone."""
        return self._lost_ends.get(key, ())

    def loss(self, key: bytes) -> Loss | None:
        """Why a row is gone; None if it is there, or never was, or is forgotten."""
        lost = self._lost.get(key)
        return None if lost is None else lost[2]

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

    def _link(self, meta: RowMeta) -> None:
        children, one = self._children.get(meta.parent), _child(meta)
        if isinstance(children, Siblings):
            children.add(one)
        elif children is None:
            self._children[meta.parent] = one
        else:
            siblings = self._children[meta.parent] = Siblings()
            siblings.add(children)
            siblings.add(one)
        self._fingerprints[meta.fingerprint] += 1

    def _unlink(self, meta: RowMeta) -> None:
        children = self._children[meta.parent]
        if isinstance(children, Siblings):
            children.remove(_child(meta))
        if isinstance(children, Child) or not children.ends:
            del self._children[meta.parent]
        self._fingerprints[meta.fingerprint] -= 1
        if not self._fingerprints[meta.fingerprint]:
            del self._fingerprints[meta.fingerprint]

    def _take_out(self, row: Row, tier: str, book: Book) -> Copy:
        copy = row.copies.pop(tier)
        book.stored -= copy.nbytes
        book.leaves.discard(row.key)
        self._unlink(copy.meta)
        self._remove_kid(tier, book, copy.meta.parent)
        return copy

    def _place(self, row: Row) -> None:
        """Put a row where its last use belongs, in every tier where it is a leaf."""
        for tier in row.copies:
            book = self.books[tier]
            if not book.kids[row.key]:
                book.leaves.add(row.key, row.used_at)

    def _add_kid(self, book: Book, parent: bytes) -> None:
        book.kids[parent] += 1
        book.leaves.discard(parent)

    def _remove_kid(self, tier: str, book: Book, parent: bytes) -> None:
        book.kids[parent] -= 1
        if book.kids[parent]:
            return
        del book.kids[parent]
        row = self._rows.get(parent)
        if row is not None and tier in row.copies:
            book.leaves.add(parent, row.used_at)

    def _forget_if_empty(self, row: Row) -> None:
        if not row.copies and not row.reserved:
            self._rows.pop(row.key, None)

    def _remember(self, meta: RowMeta, why: Loss) -> None:
        self._remember_no_more(meta.key)
        self._lost[meta.key] = (meta.parent, meta.end, why)
        self._lost_ends.setdefault(meta.parent, Counter())[meta.end] += 1
        while len(self._lost) > REMEMBERED:
            self._remember_no_more(next(iter(self._lost)))

    def _remember_no_more(self, key: bytes) -> None:
        if (lost := self._lost.pop(key, None)) is None:
            return
        parent, end, _ = lost
        ends = self._lost_ends[parent]
        ends[end] -= 1
        if not ends[end]:
            del ends[end]
        if not ends:
            del self._lost_ends[parent]


def _child(meta: RowMeta) -> Child:
    return Child(meta.tokens, meta.key, meta.end)
