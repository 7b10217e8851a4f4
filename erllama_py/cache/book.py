"""What one tier holds, as the index keeps it: its rows, pending ones, and which extends which. Pure.

The book of a tier that is gone is dropped as a whole, so none of its rows is found from that moment on.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Container, Hashable, Iterator
from itertools import islice
from typing import TypeVar

import msgspec

from erllama_py.cache.keeps import KEEP_SHARE, Keeps
from erllama_py.cache.keys import Identity
from erllama_py.cache.links import Links
from erllama_py.cache.orders import Leaves
from erllama_py.cache.shortage import Shortage
from erllama_py.tiers.messages import RowMeta, StoredRow

# Rows of turns may take a sixteenth of a quota: they are small, and many would be older than any row with cells.
TURN_SHARE = 16
# And no more than this, however large the quota: their tokens are in the index, in memory.
MOST_TURN_BYTES = 256 << 20

# Turns that are found by one key and looked at: those before the last had other tokens.
MOST_TURNS = 16
SEEN_TURNS = 4096  # among the latest of so many that came in

# Rows whose time is over that are looked at before a choice of victims: a millisecond. More are found by the next one.
RELEASED = 1024

# Seconds for which a row that could not be removed is chosen after all others. One file that is in the way for good
# then costs no more than a save each minute.
STUCK_SECONDS = 60.0

Counted = TypeVar("Counted", bound=Hashable)


class Copy(msgspec.Struct, gc=False):
    """A row in one tier."""

    meta: RowMeta
    nbytes: int
    hits: int
    used_at: float


class Book:
    """Owns all of it. A row is a leaf when no stored or pending row extends it here."""

    def __init__(self, kind: str, quota: int, pinned: Container[bytes] = frozenset()) -> None:
        """`pinned` has the keys of rows that are being read, now and later."""
        self.kind = kind
        self.quota = quota
        self.stored = 0  # bytes
        self.reserved = 0  # bytes of pending rows
        self.rows: dict[bytes, Copy] = {}
        self.pending: dict[bytes, RowMeta] = {}
        self.refused: dict[bytes, Copy] = {}  # rows that an engine could not take: no look-up finds them
        self.removing: dict[bytes, int] = {}  # rows that the tier has yet to remove, and their bytes
        self.replacing: set[bytes] = set()  # pending rows that will take the place of others
        self.taking: dict[bytes, RowMeta] = {}  # stored ones that will, once these are not read any more
        self.replaced: set[bytes] = set()  # of those to remove, the ones whose place another has taken
        self.capacity = quota  # bytes that the tier can hold, as far as is known
        self.shortage = Shortage()
        self.opened = 0.0  # which part of it was scanned; below 1.0 it is *opening*
        self.problem: str | None = None  # why it cannot be written
        self.leaves = Leaves()
        self.keeps = Keeps()  # rows that are no leaves for a time, whatever extends them
        self.stuck_leaves = Leaves()  # rows that could not be removed: those that were tried first come first
        self.turn_leaves = Leaves()  # rows of turns have an order, and a share of the quota, of their own
        self.turn_bytes = 0  # stored and pending
        self._stuck: dict[bytes, float] = {}  # until when; those that were tried first come first
        self._removes_again = False  # what could not be removed can be now
        self._turns: dict[bytes, Counter[bytes]] = {}  # their keys by what they are found by, and how often here
        self.links = Links()
        self._pinned = pinned
        self._identities: dict[bytes, Counter[Identity]] = {}  # settings of the rows of each model
        self._builds: dict[bytes, str] = {}  # the build that last saved rows of a model, so that runs it now

    def __len__(self) -> int:
        return len(self.rows) + len(self.pending)

    def __repr__(self) -> str:
        return f"<Book of {len(self.rows)} rows and {len(self.pending)} pending, {self.stored} of {self.quota} bytes>"

    # --- rows ----------------------------------------------------------------------------------------------------

    def add(self, row: StoredRow) -> None:
        """The tier has this row. Allowed twice."""
        meta = row.meta
        self._forgive(meta.key)
        known = self._remove(meta.key)
        if known is not None and (known.meta.parent, known.nbytes) != (meta.parent, row.nbytes):
            self.keeps.discard(meta.key)
        self.rows[meta.key] = Copy(meta, row.nbytes, row.hits, row.used_at)
        self.stored += row.nbytes
        self.turn_bytes += row.nbytes if is_turn(meta) else 0
        self._link(meta)
        self._place(meta.key)

    def drop(self, key: bytes) -> Copy | None:
        """It has this row no more; what was known of it."""
        self.keeps.discard(key)
        return self._remove(key) or self._forgive(key)

    def refuse(self, key: bytes) -> Copy | None:
        """An engine could not take this row: it stays in the tier, but is not found until it is stored again, and goes
        first when room is needed. What is known of it; None for what is not here."""
        self.keeps.discard(key)
        copy = self._remove(key)
        if copy is not None:
            self.refused[key] = copy
            self.stored += copy.nbytes
        return copy

    def _forgive(self, key: bytes) -> Copy | None:
        copy = self.refused.pop(key, None)
        if copy is not None:
            self.stored -= copy.nbytes
        return copy

    def removed(self, key: bytes) -> int | None:
        """The tier has removed this row, which was to go; its bytes, None where it was not."""
        self._removes_again |= self._stuck.pop(key, None) is not None
        return self.removing.pop(key, None)

    def stick(self, key: bytes, now: float) -> None:
        """The tier could not remove this row, and has it still: others are chosen before it for a while."""
        self.removing.pop(key, None)
        self.replaced.discard(key)
        self._stuck.pop(key, None)
        self._stuck[key] = now + STUCK_SECONDS
        self._removes_again = False

    def stuck_until(self, key: bytes) -> float | None:
        """Until when others are chosen before this row; None where it is like any other."""
        return self._stuck.get(key)

    def _remove(self, key: bytes) -> Copy | None:
        copy = self.rows.pop(key, None)
        if copy is not None:
            self.stored -= copy.nbytes
            self.turn_bytes -= copy.nbytes if is_turn(copy.meta) else 0
            self._no_leaf(key)
            self._unlink(copy.meta)
        return copy

    def reserve(self, meta: RowMeta, nbytes: int) -> None:
        """A row will be stored."""
        self.pending[meta.key] = meta
        self.reserved += nbytes
        self.turn_bytes += nbytes if is_turn(meta) else 0
        self._link(meta)
        self._no_leaf(meta.key)  # a row that is being saved again under its key must not be removed after that
        if meta.build and not is_turn(meta):
            self._builds[meta.fingerprint] = meta.build

    def unreserve(self, meta: RowMeta, nbytes: int) -> None:
        """It was stored, or never will be."""
        if self.pending.pop(meta.key, None) is not None:
            self.reserved -= nbytes
            self.turn_bytes -= nbytes if is_turn(meta) else 0
            self._unlink(meta)
            self._place(meta.key)

    def pinned(self, key: bytes) -> None:
        """A row is being read from now on, so that it is no victim. It need not be here."""
        self._no_leaf(key)

    def unpinned(self, key: bytes) -> None:
        """It is read no more."""
        self._place(key)

    def use(self, key: bytes, hits: int, used_at: float) -> None:
        """A row, if it is here, has this many hits and was last used at `used_at`."""
        copy = self.rows.get(key)
        if copy is not None:
            copy.hits, copy.used_at = hits, used_at
            self._place(key)

    # --- keeping -------------------------------------------------------------------------------------------------

    def keep(self, key: bytes, seconds: float, now: float) -> bool:
        """Keep a row that is here from being evicted, for `seconds` from `now` on; false where it cannot be, see
        `Keeps.add`, and for what is not here."""
        copy = self.rows.get(key)
        if copy is None or is_turn(copy.meta):
            return False
        self.release(now)
        parent = copy.meta.parent if copy.meta.start else None
        if not self.keeps.add(key, parent, copy.nbytes, seconds, now, self.keep_limit):
            return False
        self._no_leaf(key)
        return True

    def release(self, now: float, limit: int | None = None) -> None:
        """Rows whose time is over can go again, some `RELEASED` at a time; with a `limit` in bytes also those whose
        time ends first. So can those that could not be removed a while ago."""
        for key in self.keeps.release(now, self.keep_limit if limit is None else limit, RELEASED):
            self._place(key)
        for key, until in list(islice(self._stuck.items(), RELEASED)):
            if until > now and not self._removes_again:
                break
            del self._stuck[key]
            self._no_leaf(key)
            self._place(key)

    @property
    def keep_limit(self) -> int:
        """Bytes that kept rows may take."""
        return self.capacity // KEEP_SHARE

    # --- room ----------------------------------------------------------------------------------------------------

    def used(self) -> int:
        """Bytes that the tier holds, rows that it has yet to remove included."""
        return self.stored + sum(self.removing.values())

    def excess(self) -> int:
        """Bytes to evict for what is reserved already. The quota alone counts: where the tier has less room than that,
        it asks for more when it has tried to write."""
        return self.stored + self.reserved - self.quota

    def was_full(self) -> None:
        """The tier had no room although its quota has: it holds bytes unknown to the index, or its device is small.

        What it holds is all that it can hold, for the time being.
        """
        self.capacity = min(self.quota, self.used())

    def has_taken(self) -> None:
        """The tier has stored a new row. If it holds more than when it was full, there is room again."""
        if self.used() > self.capacity:
            self.capacity = self.quota

    def turn_excess(self) -> int:
        """Bytes of turns to evict, so that they keep to their share of the quota."""
        return self.turn_bytes - min(self.quota // TURN_SHARE, MOST_TURN_BYTES)

    # --- which row extends which ------------------------------------------------------------------------------------

    def has_parent(self, meta: RowMeta) -> bool:
        """Whether the row that this one extends is here or pending; always so at position 0."""
        return meta.start == 0 or self._parent(meta) is not None

    def is_reachable(self, meta: RowMeta) -> bool:
        """Whether rows that are here or pending lead from position 0 to where this row starts.

        The chain is followed each time (0.1 ms for 1,000 rows): a remembered answer would have to be updated for all
        that extends a lost row.
        """
        while meta.start:
            if (parent := self._parent(meta)) is None:
                return False
            meta = parent
        return True

    def turns(self, found_by: bytes) -> list[RowMeta]:
        """The rows of turns that are found by this, here or pending, the last saved or found first, `MOST_TURNS` at
        most. Not by when they were made: that was by whatever clock there was."""
        keys = islice(reversed(self._turns.get(found_by, Counter())), SEEN_TURNS)
        latest = heapq.nlargest(MOST_TURNS, keys, key=self._last_use)
        return [meta for key in latest if (meta := self._meta(key)) is not None]

    def turn_tokens(self, meta: RowMeta) -> bytes | None:
        """All tokens of a turn, packed; None where a row that it extends is gone."""
        spans = [meta.tokens]
        while meta.start:
            if (before := self._parent(meta)) is None:
                return None
            spans.append(before.tokens)
            meta = before
        return b"".join(reversed(spans))

    def has_others(self, identity: Identity) -> bool:
        """Whether there is any row of the same model with other settings."""
        return any(one != identity for one in self._identities.get(identity.fingerprint, ()))

    def is_stale(self, meta: RowMeta) -> bool:
        """Whether this row is of another build than the one that runs its model now, so that no look-up finds it."""
        return self._builds.get(meta.fingerprint, meta.build) != meta.build

    # --- the end ---------------------------------------------------------------------------------------------------

    def shed(self, portion: int) -> Iterator[None]:
        """Free this many rows of an unused book at each step: freeing a hundred thousand at once takes 100 ms."""
        while self.rows or self.links:
            for _ in range(min(portion, len(self.rows))):
                self.rows.popitem()
            self.links.shed(portion)
            yield

    # --- inside --------------------------------------------------------------------------------------------------

    def _link(self, meta: RowMeta) -> None:
        self.links.link(meta)
        if self._parent(meta) is not None:
            self._no_leaf(meta.parent)
        if is_turn(meta):
            self._turns.setdefault(meta.ctx_params_hash, Counter())[meta.key] += 1
        else:
            self._identities.setdefault(meta.fingerprint, Counter())[_identity(meta)] += 1

    def _unlink(self, meta: RowMeta) -> None:
        if self.links.unlink(meta):
            self._place(meta.parent)
        if is_turn(meta):
            _count_off(self._turns, meta.ctx_params_hash, meta.key)
        elif _count_off(self._identities, meta.fingerprint, _identity(meta)):
            self._builds.pop(meta.fingerprint, None)

    def _place(self, key: bytes) -> None:
        """Put a row into the order of last use, if it is here and may be evicted."""
        copy = self.rows.get(key)
        if copy is None or key in self.pending or key in self._pinned or key in self.keeps:
            return
        if self.links.is_extended(key, copy.meta.end):
            return
        if (until := self._stuck.get(key)) is not None:
            self.stuck_leaves.add(key, until)
        else:
            (self.turn_leaves if is_turn(copy.meta) else self.leaves).add(key, copy.used_at)

    def _no_leaf(self, key: bytes) -> None:
        self.leaves.discard(key)
        self.turn_leaves.discard(key)
        self.stuck_leaves.discard(key)

    def _meta(self, key: bytes) -> RowMeta | None:
        copy = self.rows.get(key)
        return copy.meta if copy is not None else self.pending.get(key)

    def _last_use(self, key: bytes) -> float:
        copy = self.rows.get(key)
        return math.inf if copy is None else copy.used_at

    def _parent(self, meta: RowMeta) -> RowMeta | None:
        """The row, here or pending, that ends where this one starts and is its parent."""
        pending = self.pending.get(meta.parent)
        if pending is not None and pending.end == meta.start:
            return pending
        copy = self.rows.get(meta.parent)
        return copy.meta if copy is not None and copy.meta.end == meta.start else None


def is_turn(meta: RowMeta) -> bool:
    """Whether a row holds the tokens of a turn, and no cells."""
    return meta.reason == "turn"


def _count_off(counts: dict[bytes, Counter[Counted]], group: bytes, one: Counted) -> bool:
    """Take one off a count, and leave no zero behind; whether that was the last of its group."""
    counted = counts[group]
    counted[one] -= 1
    if not counted[one]:
        del counted[one]
    if not counted:
        del counts[group]
    return not counted


def _identity(meta: RowMeta) -> Identity:
    return Identity(meta.fingerprint, meta.quant_bits, meta.ctx_params_hash)
