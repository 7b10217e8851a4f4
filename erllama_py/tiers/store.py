"""A directory of rows and its books, as one object that blocks.

Owns the `Place`, the `Ledger` and every change of a name below the root. All methods run on one thread, that of the
tier's writer, one after the other: so the books are right at every moment and no file changes its name while another
change is decided. Readers use the `place` alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

from erllama_py.buffers import BufferPool
from erllama_py.errors import TierFailed, TierFull
from erllama_py.tiers import row_file
from erllama_py.tiers.ledger import Ledger
from erllama_py.tiers.lock import Place, open_place, words
from erllama_py.tiers.messages import StoredRow
from erllama_py.tiers.publish import Draft, Files, is_there, prepare, publish, take_back
from erllama_py.tiers.scan import (
    BadFile,
    FileId,
    Others,
    aside_name,
    breathing,
    look_at_others,
    read_row,
    same_file,
    take_census,
)

# No link is followed, and no pipe is waited for.
WRITING = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass
class Removal:
    """What came of a removal: the bytes freed, the names that are `left`, and the first error."""

    freed: int = 0
    left: set[str] = field(default_factory=set)
    error: OSError | None = None


class Store:
    def __init__(self, tier: str, root: str, quota: int, files: Files, buffers: BufferPool) -> None:
        self.tier = tier
        self.root = root
        self.quota = quota
        self.place: Place | None = None
        self.ledger = Ledger(quota, {}, {}, 0)
        self.strangers = 0  # files among the rows that are none of ours, and are left alone
        self._files = files
        self._buffers = buffers
        self._numbers = count(1)  # of files set aside
        self._left: set[str] = set()  # could not be removed yet
        self._others: Others = {}  # what we have not written

    def open(self) -> tuple[Place, list[str]]:
        """Open the directory and its books; the place and the names of the files in its `rows`.

        Raises `TierLocked`, `TierFailed`; what was open before is kept then, for its rows can still be read.
        """
        place = open_place(self.tier, self.root, self.place)
        try:
            census = take_census(place)
        except OSError as error:
            place.close()  # the error may be kept, and what it refers to with it
            raise TierFailed(self.tier, f"cannot read the directory {self.root}: {words(error)}") from error
        except BaseException:
            place.close()
            raise
        if self.place is not None:
            place.succeed(self.place)
        self.place = place
        self.ledger = Ledger(self.quota, {**census.rows, **census.stale}, census.aside, sum(census.other.values()))
        self._others = census.other
        self.strangers = census.strangers
        self._left = set(census.stale)
        self._trim_aside(place)  # the quota may have been larger
        return place, list(census.rows)

    def reopen_if_lost(self) -> tuple[Place, list[str]] | None:
        """Open again where the directory is not the one that was opened; None where it is."""
        return None if self.is_current() else self.open()

    def is_current(self) -> bool:
        """Whether the directory at the root is the one that was opened."""
        return self.place is not None and self.place.is_current()

    def prepare(self, draft: Draft) -> None:
        """Take the bytes from the quota and make the temp file. After any error, `take_back`."""
        place = self._opened()
        self._left = self.delete(list(self._left)).left
        if not self.ledger.fits(draft.nbytes):
            self._others = look_at_others(self._others)  # others may have removed some
            self.ledger.set_other(sum(self._others.values()))
        if not self.ledger.fits(draft.nbytes):
            raise TierFull(self.tier, f"{draft.nbytes} bytes do not fit: {self.ledger.used} of {self.quota} are taken")
        self.ledger.add(draft.temp, draft.nbytes)
        prepare(self._files, place.rows_fd, draft)

    def missing(self, nbytes: int) -> int:
        """Bytes to remove before a row of `nbytes` bytes fits: what the quota lacks, or all, where it is the device."""
        return max(0, self.ledger.used + nbytes - self.quota) or nbytes

    def publish(self, draft: Draft) -> StoredRow:
        """Give the row its name. After any error, `take_back`."""
        place = self._opened()
        stored = publish(self._files, place.rows_fd, draft, lambda: self._sound_row(place, draft.name))
        self.ledger.drop(draft.temp)
        self.ledger.add(draft.name, draft.nbytes)
        self._left.discard(draft.name)
        return stored

    def take_back(self, draft: Draft) -> None:
        """Undo what was done for the draft; what cannot be removed stays in the books, and is tried again."""
        if self.place is None:
            return
        left = take_back(self._files, self.place.rows_fd, draft)
        self.ledger.drop(draft.temp)
        if draft.named:
            self.ledger.drop(draft.name)
        for name in left:
            self.ledger.add(name, draft.nbytes)
        self._left.update(left)

    def delete(self, names: Iterable[str], before: Mapping[str, str] | None = None) -> Removal:
        """Remove files in `rows`. Where one is left, the one `before` it, whose row it extends, is left too: rows are
        used in chains."""
        place, removal, needed = self._opened(), Removal(), set[str]()
        for name in breathing(names):
            try:
                if name not in needed:
                    self._unlink(place, name)
                    removal.freed += self.ledger.drop(name)
                    continue
            except OSError as error:
                removal.error = removal.error or error
            removal.left.add(name)
            if before and name in before:
                needed.add(before[name])
        return removal

    def forget(self, name: str) -> bool:
        """A file is gone that was not removed here; False if there still is one of that name. A directory is none."""
        if self.place is None:
            return False
        if is_there(self.place.rows_fd, name) and not _is_directory(self.place.rows_fd, name):
            return False
        self.ledger.drop(name)
        return True

    def set_aside(self, name: str, file_id: FileId, kind: str) -> bool:
        """Move a bad file out of the way, the oldest there making room; False if another one has the name by now."""
        place = self._opened()
        if not same_file(place, name, file_id):
            return False
        self.ledger.set_aside(name, self._move_aside(place, name, kind))
        self._trim_aside(place)
        return True

    def sweep(self, keys: Set[bytes], names: Set[str]) -> int:
        """Remove what is aside, and all in `rows` that is neither a row of these keys nor has one of these names; the
        bytes freed."""
        place = self._opened()
        before = self.ledger.used
        for name in breathing(list(self.ledger.aside)):
            self._drop_aside(place, name)
        self.delete(
            [name for name in self.ledger.rows if name not in names and row_file.key_of_file_name(name) not in keys]
        )
        return before - self.ledger.used

    def write_usage(self, usage: Mapping[str, tuple[int, float]]) -> None:
        """Write hits and last use into the headers of rows, in place; best effort."""
        place = self.place
        if place is None:
            return
        for name, (hits, used_at) in breathing(usage.items()):
            with suppress(OSError):
                fd = os.open(name, WRITING, dir_fd=place.rows_fd)
                try:
                    os.pwrite(fd, row_file.encode_usage(hits, used_at), row_file.USAGE_OFFSET)
                finally:
                    os.close(fd)

    def close(self) -> None:
        """Free the lock. No read is under way any more."""
        if self.place is not None:
            self.place.close()
            self.place = None

    def _opened(self) -> Place:
        if self.place is None:
            raise TierFailed(self.tier, f"the directory {self.root} is not open")
        return self.place

    def _unlink(self, place: Place, name: str) -> None:
        """Remove a file. A directory of its name is none of ours, and is left alone."""
        try:
            self._files.unlink(place.rows_fd, name)
        except OSError:
            if not _is_directory(place.rows_fd, name):
                raise

    def _move_aside(self, place: Place, name: str, kind: str) -> str:
        """Give something in `rows` a name in `aside` that nothing has there; that name."""
        names = (aside_name(number, kind, name) for number in self._numbers)
        aside = next(new for new in names if not is_there(place.aside_fd, new))
        os.rename(name, aside, src_dir_fd=place.rows_fd, dst_dir_fd=place.aside_fd)
        return aside

    def _sound_row(self, place: Place, name: str) -> row_file.Header | None:
        """The row that has this name; what is none may be replaced by a file, a directory has to go first."""
        try:
            header, _, _ = read_row(place, name, self._buffers.take)
        except (BadFile, OSError):
            if _is_directory(place.rows_fd, name):
                self._move_aside(place, name, "foreign")
            return None
        return header

    def _trim_aside(self, place: Place) -> None:
        while (surplus := self.ledger.surplus_aside()) is not None and self._drop_aside(place, surplus):
            pass

    def _drop_aside(self, place: Place, name: str) -> bool:
        """Whether it is gone; one that cannot be removed stays in the books."""
        try:
            os.unlink(name, dir_fd=place.aside_fd)
        except FileNotFoundError:
            pass
        except OSError:
            return False
        self.ledger.drop_aside(name)
        return True


def _is_directory(directory: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return False
