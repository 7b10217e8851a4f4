"""Reusable memory for KV bytes, within a budget.

Fresh memory costs a page fault for every 4 KiB at its first use, which makes copying a KV state out some thirty
times slower than into memory that was used before. `BufferPool` owns such blocks. `take` leases one as a
`memoryview`; the block returns to the pool when the last view of the lease is gone, wherever it went and
however that ended, so no crash and no cancel can leak one or hand it out twice. Any thread may call it.

Where engines run in processes of their own, each has a pool, and all of them share one budget, by a ledger that they
all see. The blocks are then memory that other processes can map.
"""

from __future__ import annotations

import weakref

import numpy

from erllama_py import shared_memory
from erllama_py.shared_memory import Array
from erllama_py.shared_memory.ledger import Ledger, Seat
from erllama_py.shared_memory.returns import TakesBack

GRAIN = 1 << 20  # blocks are made in whole MiB, so that rows of almost the same size share them

# A block is lent only for rows of at least this fraction of its size, because all of it counts as leased: four blocks
# of 64 MiB, lent for rows of 1 MiB, would use up 256 MiB.
MOST_SPARE = 2


def block_bytes(nbytes: int) -> int:
    """The size of the smallest block that `nbytes` fit into."""
    return max(GRAIN, -(-nbytes // GRAIN) * GRAIN)


class BufferPool(TakesBack[Array]):
    """At most `budget` bytes are leased at any time, and no more are kept than that; by all pools of the ledger that
    `seat` is of, where it is given. Idle blocks of other processes make room only when these look next."""

    def __init__(self, budget: int, seat: Seat | None = None) -> None:
        self.budget = budget
        self._seat = seat
        self._ledger: Ledger | None = None
        self._idle: list[Array] = []
        self._leased = self._kept = 0  # bytes of blocks that are lent, and of idle ones
        self._is_over = False
        super().__init__()
        self._shared = shared_memory.ARENA.is_shared

    def __repr__(self) -> str:
        with self._held():
            leased, held = self._leased, self._leased + self._kept
        return f"<BufferPool {leased >> 20} MiB leased, {held >> 20} held, of {self.budget >> 20}>"

    @property
    def leased(self) -> int:
        """Bytes that are leased now."""
        with self._held():
            return self._leased

    def share(self) -> Ledger:
        """The ledger by which pools in other processes keep to this budget too. Raises `OSError`."""
        with self._held():
            if self._ledger is None:
                self._ledger = Ledger()
                self._seat = self._ledger.own
                self._note()
            return self._ledger

    def take(self, nbytes: int) -> memoryview | None:
        """A writable view of exactly `nbytes` bytes, with whatever was in them before.

        None when the budget does not allow it now, or the system has no memory for it.
        """
        if nbytes < 0:
            raise ValueError("a buffer has no negative size")
        with self._held():
            block = self._block(block_bytes(nbytes))
        if block is None:
            return None
        # Views refer to the array that they were made of: as long as one lives, so does the lease.
        lease = block[:nbytes]
        weakref.finalize(lease, self._put, block).atexit = False
        return lease.data

    def warm(self, count: int, nbytes: int) -> None:
        """Have `count` blocks for `nbytes` bytes each in memory, as far as the budget goes; takes milliseconds each.

        For a caller that will then not wait for fresh memory.
        """
        leases = [self.take(nbytes) for _ in range(count)]
        for lease in leases:
            if lease is not None:
                numpy.frombuffer(lease, numpy.uint8).fill(0)

    def trim(self) -> None:
        """Free idle blocks as far as all processes together hold more than the budget."""
        with self._held():
            self._trim()
            self._note()

    def close(self) -> None:
        """No process shares it any more, and nothing is kept for another lease. What is leased is given back as ever:
        who still refers to a pool that is over holds no descriptor by that."""
        with self._held():
            self._idle, self._kept, self._is_over = [], 0, True
            ledger, self._ledger, self._seat = self._ledger, None, None
        if ledger is not None:
            ledger.close()

    # --- with the lock held -------------------------------------------------------------------------------------

    def _block(self, size: int) -> Array | None:
        """A block of at least `size` bytes that is lent now."""
        if self._shared != shared_memory.ARENA.is_shared:  # the idle ones are private still
            self._shared, self._kept, self._idle = True, 0, []
        fitting = [block for block in self._idle if size <= block.nbytes <= MOST_SPARE * size]
        block = min(fitting, key=lambda one: one.nbytes) if fitting else None
        nbytes = size if block is None else block.nbytes
        self._leased += nbytes
        self._kept -= 0 if block is None else nbytes
        self._note()  # first, so that another process sees it that takes something at this moment
        allowed = self._leased + self._others()[0] <= self.budget
        if block is not None and allowed:
            self._idle = [other for other in self._idle if other is not block]
        elif allowed:
            self._trim()  # idle blocks of other sizes make room for one that fits
            block = _made(size)
            allowed = block is not None
        if not allowed:
            self._leased -= nbytes
            self._kept += 0 if block is None else nbytes
            block = None
        self._note()
        return block

    def _take_back(self, block: Array) -> None:
        self._leased -= block.nbytes
        if self._is_over:
            return
        self._idle.append(block)
        self._kept += block.nbytes
        self._trim()
        self._note()

    def _trim(self) -> None:
        while self._idle and self._leased + self._kept + sum(self._others()) > self.budget:
            self._kept -= self._idle.pop(0).nbytes

    def _note(self) -> None:
        if self._seat is not None:
            self._seat.note(self._leased, self._kept)

    def _others(self) -> tuple[int, int]:
        return (0, 0) if self._seat is None else self._seat.others()


def _made(size: int) -> Array | None:
    try:
        return shared_memory.allocate(size)
    except MemoryError:
        return None
