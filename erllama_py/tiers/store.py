"""A directory of rows and its books, as one object that blocks.

Owns the `Place`, the `Ledger` and every change of a name below the root. All methods run on one thread, that of the
tier's writer, one after the other: so the books are right at every moment and no file changes its name while another
change is decided. Readers use the `place` alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress

from erllama_py.buffers import BufferPool
from erllama_py.errors import TierFailed, TierFull
from erllama_py.tiers import row_file
from erllama_py.tiers.ledger import Ledger
from erllama_py.tiers.lock import Place, open_place, words
from erllama_py.tiers.messages import StoredRow
from erllama_py.tiers.publish import Draft, Files, prepare, publish, take_back
from erllama_py.tiers.scan import BadFile, Identity, read_row, same_identity, take_census

# File names have at most 255 bytes; 40 characters of an old name take 160 of them at most.
KEPT_OF_NAME = 40


class Store:
    """See the module's text."""

    def __init__(self, tier: str, root: str, quota: int, files: Files, buffers: BufferPool) -> None:
        self.tier = tier
        self.root = root
        self.quota = quota
        self.place: Place | None = None
        self.ledger = Ledger(quota, {}, {}, 0)
        self._files = files
        self._buffers = buffers
        self._set_aside = 0
        self._left: set[str] = set()  # of drafts that could not be taken back yet

    def open(self) -> list[str]:
        """Open the directory and its books; the names of the files in `rows`. Raises `TierLocked`, `TierFailed`."""
        if self.place is not None:
            # Who is still reading keeps the old one open; its lock must be free, as it may be the same file.
            self.place.unlock()
            self.place = None
        place = open_place(self.tier, self.root)
        try:
            census = take_census(place)
        except OSError as error:
            raise TierFailed(self.tier, f"cannot read the directory {self.root}: {words(error)}") from error
        self.ledger = Ledger(self.quota, census.rows, census.aside, census.other)
        self.place = place
        return list(census.rows)

    def reopen_if_lost(self) -> list[str] | None:
        """Open again where the directory is not the one that was opened; None where it is."""
        return None if self.place is not None and self.place.is_current() else self.open()

    def prepare(self, draft: Draft) -> None:
        """Take the bytes from the quota and make the temp file. After any error, `take_back`."""
        place = self._opened()
        self.delete(self._left)
        self._left.intersection_update(self.ledger.rows)
        if not self.ledger.fits(draft.nbytes):
            raise TierFull(self.tier, f"{draft.nbytes} bytes do not fit: {self.ledger.used} of {self.quota} are taken")
        self.ledger.add(draft.temp, draft.nbytes)
        prepare(self._files, place.rows_fd, draft)

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

    def delete(self, names: Iterable[str]) -> tuple[int, OSError | None]:
        """Remove files in `rows`: the bytes freed, and the first error."""
        place = self._opened()
        freed, first = 0, None
        for name in names:
            try:
                self._files.unlink(place.rows_fd, name)
                freed += self.ledger.drop(name)
            except OSError as error:
                first = first or error
        return freed, first

    def forget(self, name: str) -> None:
        """A file is gone, not by us."""
        if self.place is not None and not _exists(self.place, name):
            self.ledger.drop(name)

    def set_aside(self, name: str, identity: Identity, kind: str) -> None:
        """Move a bad file out of the way, if it is still the one that was judged; the oldest there make room."""
        place = self._opened()
        if not same_identity(place, name, identity):
            return
        while True:
            self._set_aside += 1
            aside = f"{self._set_aside}-{kind}-{name[:KEPT_OF_NAME]}"
            if aside not in self.ledger.aside:
                break
        os.rename(name, aside, src_dir_fd=place.rows_fd, dst_dir_fd=place.aside_fd)
        self.ledger.set_aside(name, aside)
        while (surplus := self.ledger.surplus_aside()) is not None:
            self._drop_aside(place, surplus)

    def sweep(self, owned: set[str] | None) -> int:
        """Remove what is aside, and all in `rows` but the `owned` names where these are known; the bytes freed."""
        place = self._opened()
        freed = sum(self._drop_aside(place, name) for name in list(self.ledger.aside))
        strays = [] if owned is None else [name for name in self.ledger.rows if name not in owned]
        return freed + self.delete(strays)[0]

    def write_usage(self, usage: Mapping[str, tuple[int, float]]) -> None:
        """Write hits and last use into the headers of rows, in place; best effort."""
        place = self.place
        if place is None:
            return
        for name, (hits, used_at) in usage.items():
            with suppress(OSError):
                fd = os.open(name, os.O_WRONLY | os.O_NOFOLLOW, dir_fd=place.rows_fd)
                try:
                    os.pwrite(fd, row_file.encode_usage(hits, used_at), row_file.USAGE_OFFSET)
                finally:
                    os.close(fd)

    def close(self) -> None:
        """Free the lock. Nobody is reading any more."""
        if self.place is not None:
            self.place.close()
            self.place = None

    def _opened(self) -> Place:
        if self.place is None:
            raise TierFailed(self.tier, f"the directory {self.root} is not open")
        return self.place

    def _sound_row(self, place: Place, name: str) -> row_file.Header | None:
        try:
            header, _, _ = read_row(place, name, self._buffers.take)
        except (BadFile, OSError):
            return None
        return header

    def _drop_aside(self, place: Place, name: str) -> int:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=place.aside_fd)
        return self.ledger.drop_aside(name)


def _exists(place: Place, name: str) -> bool:
    try:
        os.stat(name, dir_fd=place.rows_fd, follow_symlinks=False)
    except OSError as error:
        return not isinstance(error, FileNotFoundError)
    return True
