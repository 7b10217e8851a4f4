"""A bounded queue with one taker: what waits for an actor.

Owns the waiting items. `put` never waits: it queues or refuses (`MailboxFull`, `MailboxClosed`). Urgent items
are taken first, in order among themselves, and are not refused for fullness. All methods belong to the event
loop of the taker; from another thread, go through `loop.call_soon_threadsafe`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

from erllama_py.actors.errors import MailboxClosed, MailboxFull

M = TypeVar("M")

# Items taken in a row before the taker lets the event loop run. A taker that never awaits would otherwise hold
# the loop until its mailbox is empty; yielding at every item would cost more than many handlers do.
BURST = 32


class Mailbox(Generic[M]):
    def __init__(self, name: str, capacity: int = 1000) -> None:
        if capacity < 1:
            raise ValueError(f"a mailbox holds at least one message, not {capacity}")
        self.name = name
        self.capacity = capacity
        self.closed = False
        self._urgent: deque[M] = deque()
        self._normal: deque[M] = deque()
        self._taker: asyncio.Future[None] | None = None
        self._taken_in_a_row = 0
        self.received = self.refused = 0
        self.peak = 0  # the most that ever waited at once

    def __len__(self) -> int:
        return len(self._urgent) + len(self._normal)

    def put(self, item: M, *, urgent: bool = False, bounded: bool = True) -> None:
        """Queue `item`, or raise `MailboxClosed` or `MailboxFull`.

        Urgent items are taken before all others and never refused for fullness. With `bounded=False` an item keeps
        its place in the order and is not refused either: for messages that undo work, such as a cancel.
        """
        if self.closed:
            raise MailboxClosed(self.name)
        if bounded and not urgent and len(self._normal) >= self.capacity:
            self.refused += 1
            raise MailboxFull(self.name, len(self), self.capacity)
        (self._urgent if urgent else self._normal).append(item)
        self.received += 1
        self.peak = max(self.peak, len(self))
        self._wake()

    async def get(self) -> M:
        """Take the next item, waiting for one. A cancelled `get` has taken nothing.

        Raises `MailboxClosed` when the mailbox is, or gets, closed.
        """
        if self._taken_in_a_row >= BURST:
            self._taken_in_a_row = 0
            await asyncio.sleep(0)
        while not self._urgent and not self._normal:
            if self.closed:
                raise MailboxClosed(self.name)
            await self._wait()
        self._taken_in_a_row += 1
        return (self._urgent or self._normal).popleft()

    def close(self) -> list[M]:
        """Refuse everything from now on; the items that were still waiting, urgent ones first. Allowed twice."""
        self.closed = True
        left = [*self._urgent, *self._normal]
        self._urgent.clear()
        self._normal.clear()
        self._wake()
        return left

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self)} of {self.capacity} waiting"
        return f"<Mailbox {self.name!r} {state}, received {self.received}, refused {self.refused}, peak {self.peak}>"

    async def _wait(self) -> None:
        if self._taker is not None:
            raise RuntimeError(f"the mailbox of {self.name!r} has a taker already")
        self._taken_in_a_row = 0
        self._taker = asyncio.get_running_loop().create_future()
        try:
            await self._taker
        finally:
            self._taker = None

    def _wake(self) -> None:
        if self._taker is not None and not self._taker.done():
            self._taker.set_result(None)
