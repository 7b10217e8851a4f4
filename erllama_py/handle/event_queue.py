"""Events on their way to the one who reads them. On the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

E = TypeVar("E")


class EventQueue(Generic[E]):
    """What was put and is not taken yet, and who waits for more: one reader, as a rule."""

    def __init__(self) -> None:
        self._events: deque[E] = deque()
        self._readers: list[asyncio.Future[None]] = []

    def __bool__(self) -> bool:
        """Whether there is one to take."""
        return bool(self._events)

    def put(self, event: E) -> None:
        """Add one, and wake its reader."""
        self._events.append(event)
        self.wake()

    def take(self) -> E:
        """The next one. Raises `IndexError` where there is none."""
        return self._events.popleft()

    def clear(self) -> None:
        """Drop what nobody will read."""
        self._events.clear()

    async def changed(self) -> None:
        """Wait for an event or the end. A bare future: an event of anyio's for each token costs three times as much."""
        reader = asyncio.get_running_loop().create_future()
        self._readers.append(reader)
        try:
            await reader
        finally:
            if reader in self._readers:  # it was cancelled
                self._readers.remove(reader)

    def wake(self) -> None:
        """Have readers look again."""
        readers, self._readers = self._readers, []
        for reader in readers:
            if not reader.done():
                reader.set_result(None)
