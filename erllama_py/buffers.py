"""Reusable memory for KV bytes, within a budget.

Fresh memory costs a page fault for every 4 KiB at its first use, which makes copying a KV state out some thirty
times slower than into memory that was used before. `BufferPool` owns such blocks. `take` leases one as a
`memoryview`; the block returns to the pool when the last view of the lease is gone, wherever it went and
however that ended, so no crash and no cancel can leak one or hand it out twice. Any thread may call it.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque

import numpy
import numpy.typing

Block = numpy.typing.NDArray[numpy.uint8]

GRAIN = 1 << 20  # blocks are made in whole MiB, so that rows of almost the same size share them

# A block is lent only for rows of at least this fraction of its size, because all of it counts as leased: four blocks
# of 64 MiB, lent for rows of 1 MiB, would use up 256 MiB.
MOST_SPARE = 2


class BufferPool:
    """At most `budget` bytes are leased or kept at any time."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._lock = threading.Lock()
        self._idle: list[Block] = []
        # Where finalizers put blocks: they may run in any thread at any moment, so without a lock.
        self._returned: deque[Block] = deque()
        self._held = 0  # bytes of all blocks, leased and idle

    def __repr__(self) -> str:
        return f"<BufferPool {self.leased >> 20} MiB leased, {self._held >> 20} held, of {self.budget >> 20}>"

    @property
    def leased(self) -> int:
        """Bytes that are leased now."""
        with self._lock:
            self._collect()
            return self._held - sum(block.nbytes for block in self._idle)

    def take(self, nbytes: int) -> memoryview | None:
        """A writable view of exactly `nbytes` bytes, with whatever was in them before.

        None when the budget does not allow it now, or the system has no memory for it.
        """
        if nbytes < 0:
            raise ValueError("a buffer has no negative size")
        size = max(GRAIN, -(-nbytes // GRAIN) * GRAIN)
        with self._lock:
            self._collect()
            fitting = [block for block in self._idle if size <= block.nbytes <= MOST_SPARE * size]
            if fitting:
                block = min(fitting, key=lambda one: one.nbytes)
                self._idle = [other for other in self._idle if other is not block]
            else:
                if self._held - sum(block.nbytes for block in self._idle) + size > self.budget:
                    return None
                # Idle blocks of other sizes make room for one that fits.
                while self._held + size > self.budget:
                    self._held -= self._idle.pop(0).nbytes
                try:
                    block = numpy.empty(size, numpy.uint8)
                except MemoryError:
                    return None
                self._held += size
        # Views refer to the array that they were made of: as long as one lives, so does the lease.
        lease = block[:nbytes]
        weakref.finalize(lease, self._returned.append, block).atexit = False
        return lease.data

    def warm(self, count: int, nbytes: int) -> None:
        """Have `count` blocks for `nbytes` bytes each in memory, as far as the budget goes; takes milliseconds each.

        For a caller that will then not wait for fresh memory.
        """
        leases = [self.take(nbytes) for _ in range(count)]
        for lease in leases:
            if lease is not None:
                numpy.frombuffer(lease, numpy.uint8).fill(0)

    def _collect(self) -> None:
        while self._returned:
            self._idle.append(self._returned.popleft())
