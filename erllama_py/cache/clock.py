"""The cache's own time: it goes on evenly, whatever is done to the clock of the machine.

Recency decides what is evicted, and a clock can be a day ahead, be set back, or start in 1970. So within a process the
cache counts from when it started. What files say was written by the clock of another start, or of another machine:
see `sane`.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Times are in seconds; `now` is unix time as long as nobody sets the clock."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._steady = wall, steady
        self._offset = wall() - steady()

    def now(self) -> float:
        """Never goes back, and never jumps."""
        return self._steady() + self._offset

    def unix(self, own: float) -> float:
        """A time of this clock as unix time, by what the machine's clock shows now."""
        return own + self.drift()

    def drift(self) -> float:
        """By how much the machine's clock was set forward since this one began; whole seconds, so 0 if it was not."""
        return float(round(self._wall() - self.now()))
