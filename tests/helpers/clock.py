"""A clock that stands still until a test moves it.

Owns the sleepers. Protocol: `advance` moves the time and wakes sleepers that are due; `sleeping` waits until a task
sleeps, so that a test never has to guess whether the code has got that far.
"""

from __future__ import annotations

import asyncio

GUARD_SECONDS = 10


class ManualClock:
    """A `Clock` of the actor kit."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self._sleepers: dict[asyncio.Future[None], float] = {}
        self._changed = asyncio.Event()

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers[sleeper] = self._now + seconds
        self._changed.set()
        try:
            await sleeper
        finally:
            del self._sleepers[sleeper]

    def advance(self, seconds: float) -> None:
        """Move the time on and wake all sleepers that are due."""
        self._now += seconds
        for sleeper, due in self._sleepers.items():
            # A sum of floats may fall short of what a test means by a nanosecond.
            if due <= self._now + 1e-9 and not sleeper.done():
                sleeper.set_result(None)

    async def sleeping(self, seconds: float | None = None) -> float:
        """Wait until a task sleeps (and has `seconds` left, where given); the seconds until the first is due."""
        try:
            # For a test gone wrong: it shall fail rather than hang.
            async with asyncio.timeout(GUARD_SECONDS):
                while not any(seconds is None or abs(left - seconds) < 1e-9 for left in self.delays()):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"nobody sleeps for {seconds} s; sleeping: {self.delays()}") from None
        return self.delays()[0]

    def delays(self) -> list[float]:
        """The seconds that each sleeper has left, soonest first."""
        return sorted(due - self._now for sleeper, due in self._sleepers.items() if not sleeper.done())
