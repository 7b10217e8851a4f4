"""The lines that are asked at a time: those of tenants in turn, whatever number of batches each has at work."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Slots:
    """At most `most()` lines. The next is of the tenant that has the fewest, and of those the one that came first."""

    def __init__(self, most: Callable[[], int]) -> None:
        self._most = most
        self._taken = Counter[str]()
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()

    def __repr__(self) -> str:
        return f"<Slots: {self._taken.total()} of {self._most()} taken, {len(self._waiting)} wait>"

    @asynccontextmanager
    async def one(self, tenant: str) -> AsyncIterator[None]:
        """While a line of a tenant is asked."""
        turn = (tenant, asyncio.get_running_loop().create_future())
        self._waiting.append(turn)
        self._give()
        try:
            await turn[1]
            yield
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)
            else:
                self._taken[tenant] -= 1
                self._give()

    def _give(self) -> None:
        while self._waiting and self._taken.total() < self._most():
            turn = min(self._waiting, key=lambda one: self._taken[one[0]])
            self._waiting.remove(turn)
            self._taken[turn[0]] += 1
            if not turn[1].done():
                turn[1].set_result(None)
