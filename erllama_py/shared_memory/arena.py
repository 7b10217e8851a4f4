"""The shared memory of a process: segments, and the slots in them that are lent.

A slot is free when the last view of it is gone, wherever it went and however that ended. Some free slots are kept for
the next of about their size, since fresh memory takes ten times as long to fill; the memory of all others goes back to
the system, as do segments without slots, and everything when nothing is in use. Any thread may call this. In a process
that was forked off, what is in use is only forgotten: the memory is still the other's.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy

from erllama_py.shared_memory.free_ranges import FreeRanges
from erllama_py.shared_memory.returns import TakesBack
from erllama_py.shared_memory.segment import PAGE, Array, Segment, address_of

# Of the first segments: what is not used of one takes no memory, only address space, of which a process may have been
# given little. A new one is a quarter of all before it, so that few descriptors go a long way: two for each.
LEAST_BYTES = 64 << 20
SHARE_OF_ALL = 4
# Of free slots that are kept; each is used for what needs at least half of it.
WARM_BYTES = 64 << 20
MOST_SPARE = 2


class Place(NamedTuple):
    """Where bytes lie."""

    segment: Segment
    offset: int


class _Slot(NamedTuple):
    used: _Used
    start: int  # in pages, as is its length
    pages: int


class _Used:
    """A segment, and what is free of it, in pages."""

    def __init__(self, size: int) -> None:
        self.segment = Segment(size)
        self.ranges = FreeRanges(size // PAGE)


class Arena(TakesBack[_Slot]):
    """See the module. Until `share` all that is allocated is private."""

    def __init__(self, warm_bytes: int = WARM_BYTES) -> None:
        self._shared = False
        self._most_warm = warm_bytes // PAGE
        self._begin()

    def __repr__(self) -> str:
        return f"<Arena of {len(self._used)} segments, {'shared' if self._shared else 'private'}>"

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._used: tuple[_Used, ...] = ()  # replaced, never changed: read without the lock
        self._warm: list[_Slot] = []  # free ones that are kept, the oldest first
        self._lent = 0  # slots in use
        self.generation = 0  # goes up with each segment that comes or goes
        super().__init__()

    @property
    def is_shared(self) -> bool:
        """Whether what is allocated from now on can be seen by other processes."""
        return self._shared

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Those that are there."""
        return tuple(used.segment for used in self._used)

    def share(self) -> None:
        """There is another process that will read what is allocated from now on."""
        self._shared = True

    def allocate(self, nbytes: int) -> Array:
        """`nbytes` bytes, with whatever was in them before. Private where there is nobody to share them with, and where
        the system has no descriptor left for another segment. Raises `MemoryError`."""
        if self._pid != os.getpid():
            for segment in self.segments:  # here alone: the other process has its own descriptors
                segment.close()
            self._begin()
        if self._shared:
            with self._held():
                slot = self._slot(max(1, -(-nbytes // PAGE)))
            if slot is not None:
                array = slot.used.segment.array(slot.start * PAGE, nbytes)
                weakref.finalize(array, self._gone, self._pid, slot).atexit = False
                return array
        return numpy.empty(nbytes, numpy.uint8)

    def locate(self, view: Any) -> Place | None:
        """Where the bytes of a buffer lie that was allocated here; None where they are private."""
        if not self._used or self._pid != os.getpid():
            return None
        address = address_of(view)
        for used in self._used:
            if 0 <= (offset := address - used.segment.address) < used.segment.size:
                return Place(used.segment, offset)
        return None

    # --- with the lock held -------------------------------------------------------------------------------------

    def _slot(self, pages: int) -> _Slot | None:
        warm = [slot for slot in self._warm if pages <= slot.pages <= MOST_SPARE * pages]
        slot = min(warm, key=lambda one: one.pages) if warm else self._fresh(pages)
        if slot is None:
            return None
        self._warm = [other for other in self._warm if other is not slot]
        self._lent += 1
        return slot

    def _fresh(self, pages: int) -> _Slot | None:
        for used in self._used:
            if (start := used.ranges.take(pages)) is not None:
                return _Slot(used, start, pages)
        size = max(LEAST_BYTES, pages * PAGE, _whole_pages(used.segment.size for used in self._used))
        try:
            made = _Used(size)
        except OSError:
            return None
        start = made.ranges.take(pages)
        assert start is not None
        self._used = (*self._used, made)
        self.generation += 1
        return _Slot(made, start, pages)

    def _gone(self, pid: int, slot: _Slot) -> None:
        """A finalizer: the last view of a slot is gone."""
        if pid == os.getpid():
            self._put(slot)

    def _take_back(self, slot: _Slot) -> None:
        self._lent -= 1
        self._warm.append(slot)
        most = self._most_warm if self._lent else 0
        while self._warm and sum(one.pages for one in self._warm) > most:
            self._free(self._warm.pop(0))

    def _free(self, slot: _Slot) -> None:
        used = slot.used
        used.ranges.give(slot.start, slot.pages)
        if used.ranges.free < used.ranges.size:
            used.segment.forget(slot.start * PAGE, slot.pages * PAGE)
        else:
            self._used = tuple(other for other in self._used if other is not used)
            self.generation += 1
            used.segment.close()


def _whole_pages(sizes: Iterable[int]) -> int:
    return sum(sizes) // SHARE_OF_ALL // PAGE * PAGE


ARENA = Arena()
