"""What a directory holds, in bytes: the books by which its quota is kept.

Owns the sizes of all files below a root. Pure and not locked: only the thread that changes the directory may change
its books, at the same moment.
"""

from __future__ import annotations

from collections.abc import Mapping

# File systems give out whole blocks; 4 KiB is the block of all common ones and the page of a memory file system.
BLOCK = 4096

# What was set aside is evidence for a person to look at, not a store: at most this many files, and this fraction of the
# quota.
MOST_ASIDE = 64
ASIDE_SHARE = 16


def on_disk(nbytes: int) -> int:
    """What a file of `nbytes` takes of the quota."""
    return -(-nbytes // BLOCK) * BLOCK


class Ledger:
    """Sizes by file name; `used` is their sum with `other` (what lies outside `rows` and `aside`)."""

    def __init__(self, quota: int, rows: Mapping[str, int], aside: Mapping[str, int], other: int) -> None:
        self.quota = quota
        self.rows = dict(rows)
        self.aside = dict(aside)  # oldest first
        self.other = other
        self.used = other + sum(self.rows.values()) + sum(self.aside.values())

    def fits(self, nbytes: int) -> bool:
        """Whether the quota allows `nbytes` more."""
        return self.used + nbytes <= self.quota

    def set_other(self, nbytes: int) -> None:
        """What we have not written takes `nbytes` by now."""
        self.used += nbytes - self.other
        self.other = nbytes

    def add(self, name: str, nbytes: int) -> None:
        """A file in `rows` takes `nbytes` now, whatever it took before."""
        self.drop(name)
        self.rows[name] = nbytes
        self.used += nbytes

    def drop(self, name: str) -> int:
        """A file in `rows` is not there any more; the bytes it took."""
        freed = self.rows.pop(name, 0)
        self.used -= freed
        return freed

    def set_aside(self, name: str, aside: str) -> None:
        """A file moved from `rows` to `aside`."""
        self.aside[aside] = self.rows.pop(name, 0)

    def drop_aside(self, name: str) -> None:
        """A file in `aside` is not there any more."""
        self.used -= self.aside.pop(name, 0)

    def surplus_aside(self) -> str | None:
        """The file in `aside` that has to go next, if any."""
        too_many = len(self.aside) > MOST_ASIDE
        too_large = sum(self.aside.values()) > self.quota // ASIDE_SHARE
        return next(iter(self.aside)) if self.aside and (too_many or too_large) else None

    def __repr__(self) -> str:
        return f"<Ledger {self.used} of {self.quota} bytes: {len(self.rows)} in rows, {len(self.aside)} aside>"
