"""The requests of an application that are open, and how they come to their end with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from erllama_py.serve.core.places import Places
from erllama_py.serve.core.problems import shutting_down


class Open:
    """The requests that are open, and whether new ones are let in."""

    def __init__(self, most: int) -> None:
        self.places = Places(most, "requests", "too_many_requests")
        self._hurry: dict[object, Callable[[], None]] = {}
        self.drained: set[Callable[[], None]] = set()
        """What is called when no request is let in any more."""
        self._changed = asyncio.Event()
        self.draining = False
        self.ended = asyncio.Event()
        """Set once it was drained: what goes on until the server ends has to end now."""

    def __len__(self) -> int:
        return len(self._hurry)

    @contextmanager
    def one(self, hurry: Callable[[], None], tenant: str = "") -> Iterator[None]:
        """While a request of a tenant is open; `hurry` ends it with what it has. Raises `Problem` where none is let
        in."""
        if self.draining:
            raise shutting_down()
        with self.places.taken(tenant):
            key = object()
            self._hurry[key] = hurry
            try:
                yield
            finally:
                del self._hurry[key]
                self._changed.set()

    def _let_none_in(self) -> None:
        if not self.draining:
            self.draining = True
            for drained in list(self.drained):
                drained()

    async def drain(self, seconds: float) -> bool:
        """Let no request in, and wait until all are over; those that take longer end with what they have.

        Whether all ended by themselves.
        """
        self._let_none_in()
        try:
            async with asyncio.timeout(seconds):
                await self.over()
        except TimeoutError:
            self.hurry()
            return False
        finally:
            self.ended.set()
        return True

    def hurry(self) -> None:
        """End all requests with what they have."""
        self._let_none_in()
        for end in list(self._hurry.values()):
            end()

    async def over(self) -> None:
        """Wait until no request is open."""
        while self._hurry:
            self._changed.clear()
            await self._changed.wait()
