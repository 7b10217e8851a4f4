"""The answers that are being sent, by tenant and id, so that they can be cancelled from elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Running:
    """Owns nothing: each answer takes itself out when it is over."""

    def __init__(self) -> None:
        self._ends: dict[tuple[str, str], tuple[Callable[[], None], asyncio.Event]] = {}

    @contextmanager
    def one(self, tenant: str, response_id: str, end: Callable[[], None]) -> Iterator[None]:
        """While an answer is sent; `end` ends it with what it has."""
        over = asyncio.Event()
        self._ends[tenant, response_id] = (end, over)
        try:
            yield
        finally:
            del self._ends[tenant, response_id]
            over.set()

    async def cancel(self, tenant: str, response_id: str) -> bool:
        """End an answer and wait until it is over; whether there is such a one."""
        found = self._ends.get((tenant, response_id))
        if found is None:
            return False
        end, over = found
        end()
        await over.wait()
        return True
