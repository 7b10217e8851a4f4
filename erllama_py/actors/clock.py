"""The clock of backoff, restart windows and stop deadlines: a two-method protocol, so that tests can control time."""

from __future__ import annotations

import time
from typing import Protocol

import anyio


class Clock(Protocol):
    """Seconds that only ever grow."""

    def now(self) -> float:
        """Seconds since an arbitrary start."""

    async def sleep(self, seconds: float) -> None:
        """Return once `seconds` have passed."""


class MonotonicClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class BudgetClock:
    """The clock of restart windows: it stands still while a child starts.

    Else what starts slowly, as a large model on a busy machine does, could fail for ever: its restarts would be too far
    apart to be counted together.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stood = 0.0
        self._since: float | None = None  # the start that is under way has begun

    def now(self) -> float:
        """Seconds since an arbitrary start, without those of starts."""
        return (self._clock.now() if self._since is None else self._since) - self._stood

    def stop(self) -> None:
        """A start begins."""
        self._since = self._clock.now()

    def go_on(self) -> None:
        """It is over. Allowed twice."""
        if self._since is not None:
            self._stood += self._clock.now() - self._since
            self._since = None
