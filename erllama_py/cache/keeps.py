"""Which rows of one tier are kept until when, whatever needs their room. Pure: times are given.

A row is kept with all rows before it, and none of those for a shorter time, so what is kept is what is counted:
`nbytes` never exceeds the limit that `add` is given, a share of the quota. Who has its row kept first has it: no keep
takes the place of another. A row that is used is kept anew, see `renew`.

Times that are over are found in an order with one mark for each row. A renewal moves no mark: a mark that is met before
its row's time is over is put back.
"""

from __future__ import annotations

import math

import msgspec

from erllama_py.cache.orders import Order

# Kept rows may take a quarter of what a tier can hold: the others, and new ones, have the rest.
KEEP_SHARE = 4


class Kept(msgspec.Struct, gc=False):
    """Until when a row is kept, in unix seconds, and for how many seconds from each use on."""

    until: float
    seconds: float
    nbytes: int
    parent: bytes | None  # the row before it; None where it begins at 0
    depth: int  # rows before it


class Keeps:
    """See the module."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._kept: dict[bytes, Kept] = {}
        self._marks = Order()  # when to look at a row, and its depth below 0: of a chain the last goes first

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: bytes) -> bool:
        return key in self._kept

    def __repr__(self) -> str:
        return f"<Keeps of {len(self)} rows, {self.nbytes} bytes>"

    def until(self, key: bytes) -> float | None:
        """Until when a row is kept; None where it is not."""
        kept = self._kept.get(key)
        return None if kept is None else kept.until

    def add(self, key: bytes, parent: bytes | None, nbytes: int, seconds: float, now: float, limit: int) -> bool:
        """Keep a row for `seconds` from `now` on, and the rows before it no shorter; false where it cannot be.

        It cannot where the row before it is not kept, or where more than `limit` bytes would be. One that is kept is
        only kept longer.
        """
        kept = self._kept.get(key)
        if kept is None:
            if self.nbytes + nbytes > limit or (parent is not None and parent not in self._kept):
                return False
            depth = 0 if parent is None else self._kept[parent].depth + 1
            kept = self._kept[key] = Kept(0.0, seconds, nbytes, parent, depth)
            self.nbytes += nbytes
            # Whole seconds: rows that are saved one after the other end together, and need not prolong each other.
            self._marks.place(key, math.ceil(now + seconds), -depth)
        self._prolong(key, seconds, math.ceil(now + seconds))
        return True

    def renew(self, key: bytes, now: float) -> bool:
        """A row was used: it is kept for as long as was asked for from `now` on; false where it is not kept."""
        kept = self._kept.get(key)
        if kept is None or kept.until <= now:
            return False
        self._prolong(key, kept.seconds, math.ceil(now + kept.seconds))
        return True

    def discard(self, key: bytes) -> None:
        """Keep a row no more."""
        if (kept := self._kept.pop(key, None)) is not None:
            self.nbytes -= kept.nbytes
            self._marks.discard(key)

    def release(self, now: float, limit: int, most: int) -> list[bytes]:
        """Rows that are kept no more: their time is over, or more than `limit` bytes are kept and theirs ends first.

        It looks at `most` at a time; what is left is found the next time.
        """
        released = list[bytes]()
        while most > 0 and (mark := self._marks.first()) is not None and (mark[0] <= now or self.nbytes > limit):
            most -= 1
            due, key = mark
            kept = self._kept[key]
            if kept.until > due:
                self._marks.place(key, kept.until, -kept.depth)
            else:
                self.discard(key)
                released.append(key)
        return released

    def _prolong(self, key: bytes | None, seconds: float, until: float) -> None:
        """Up the chain, as far as rows end earlier."""
        while key is not None and (kept := self._kept.get(key)) is not None and kept.until < until:
            kept.until, kept.seconds = until, seconds
            key = kept.parent
