"""How processes keep to one budget: a page that all of them see, in which each writes how much it holds.

Nobody waits for a lock, which a process that was stopped could hold: each writes its own cell alone, first says what it
is about to take, and then looks whether that is too much. Of two that take the last of a budget at the same moment both
may be refused, and neither is wrong. A process that has died is cleared by the one that began it; what that one still
holds of it is then its own.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref

import numpy

from erllama_py.shared_memory.returns import TakesBack
from erllama_py.shared_memory.segment import sealed, sealed_size

# Processes of one runtime, those that ended left out.
MOST_PROCESSES = 510
_OWN, _ADOPTED = 0, 1  # cells of the process that made the ledger: its own, and what is left of those that died
_LEASED, _IDLE = 0, 1
_BYTES = (MOST_PROCESSES + 2) * 2 * 8


class LedgerFull(Exception):
    """There are as many processes as the ledger has cells."""


class _Page:
    """The cells, as long as they are shared, and then a copy that is this process's alone."""

    def __init__(self, fd: int) -> None:
        self.cells = numpy.frombuffer(mmap.mmap(fd, _BYTES), numpy.int64).reshape(-1, 2)

    def leave(self) -> None:
        """Others see nothing any more of what is written. The mapping, which holds a descriptor of its own, is gone."""
        self.cells = self.cells.copy()


class Seat:
    """One process's cell."""

    def __init__(self, page: _Page, index: int) -> None:
        self._page, self.index = page, index
        self._fence, self._pid = threading.Lock(), os.getpid()

    def __repr__(self) -> str:
        leased, idle = map(int, self._page.cells[self.index])
        return f"<Seat {self.index}: {leased >> 20} MiB leased, {idle >> 20} idle>"

    def note(self, leased: int, idle: int) -> None:
        """This process holds so many bytes, unless it was forked off. Numbers of 64 bits are written whole."""
        if self._pid != os.getpid():
            return
        cells = self._page.cells
        cells[self.index, _LEASED] = leased
        cells[self.index, _IDLE] = idle
        with self._fence:  # what is read after this is what the others have written before
            pass

    def others(self) -> tuple[int, int]:
        """What all others hold: bytes that are leased, and idle ones."""
        cells = self._page.cells
        leased, idle = cells.sum(axis=0, dtype=numpy.int64) - cells[self.index]
        return int(leased), int(idle)


class Ledger(TakesBack[int]):
    """Made by the process that begins the others, whose seat is `own`. Raises `OSError`."""

    def __init__(self) -> None:
        self.fd = sealed(_BYTES, "erllama-ledger")
        self._closing = weakref.finalize(self, os.close, self.fd)
        self._closing.atexit = False
        self._page = _Page(self.fd)
        self.own = Seat(self._page, _OWN)
        self._seats: set[int] = set()
        self._adopted = 0
        super().__init__()

    def __repr__(self) -> str:
        return f"<Ledger of {len(self._seats)} children, {self._adopted >> 20} MiB of dead ones>"

    def enter(self) -> Seat:
        """A seat for a new process. Raises `LedgerFull`."""
        with self._held():
            free = (index for index in range(_ADOPTED + 1, MOST_PROCESSES + 2) if index not in self._seats)
            index = next(free, None)
            if index is None:
                raise LedgerFull
            self._seats.add(index)
            self._page.cells[index] = 0
            return Seat(self._page, index)

    def leave(self, seat: Seat, kept: int = 0) -> None:
        """The process of a seat has ended; `kept` bytes of it are still looked at here."""
        with self._held():
            if seat.index in self._seats:
                self._seats.remove(seat.index)
                self._take_back(-kept)
                self._page.cells[seat.index] = 0

    def give_back(self, nbytes: int) -> None:
        """So many of the bytes that were kept are not looked at any more. From any thread at any moment."""
        self._put(nbytes)

    def close(self) -> None:
        """Close its descriptors, as when nobody refers to it any more. Seats go on to work, for this process alone."""
        self._closing()
        with self._held():
            self._page.leave()

    def _take_back(self, nbytes: int) -> None:
        self._adopted -= nbytes
        self._page.cells[_ADOPTED, _LEASED] = self._adopted


def take_seat(fd: int, index: int) -> Seat:
    """The seat that a process was given, from the ledger's descriptor, which is closed. Raises `OSError`."""
    try:
        sealed_size(fd, _BYTES)
        return Seat(_Page(fd), index)
    finally:
        os.close(fd)
