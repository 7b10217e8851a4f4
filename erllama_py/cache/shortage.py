"""When rows are removed for a device that has no room, although the quota has: slowly, and never all of them. Pure.

A row is written first. Where the device has no room for it, rows of its size are removed, and it is tried once more.
On a device that is smaller than the quota that works each time. Where a neighbour takes what becomes free, it does not:
then the next removal waits for twice as many saves as the one before, and half of what was there is about the most that
goes in an hour. A row that gets in ends the wait.
"""

from __future__ import annotations

# Saves that fail before rows are removed again double up to this.
MOST_SAVES = 1 << 20
PERIOD = 3600.0


class Shortage:
    """What one tier has removed for its device. Times are in seconds, sizes in bytes."""

    def __init__(self) -> None:
        self._made: dict[int, int] = {}  # bytes that were removed for a pending row, by its reservation
        self._in_vain = 0  # removals after the last row that got in
        self._wait = 0  # saves that fail before the next removal
        self._began = float("-inf")
        self._held = 0  # bytes of rows when the period began
        self._lost = 0  # bytes removed in vain since then, less those of rows that found room

    def allows(self, held: int, now: float) -> bool:
        """A row has no room, and the tier holds `held` bytes of others: whether some may go for it."""
        if not 0.0 <= now - self._began < PERIOD:
            self._began, self._held, self._lost = now, held, 0
        if self._wait:
            self._wait -= 1
            return False
        return self._lost == 0 or 2 * self._lost < self._held

    def made(self, reservation: int, nbytes: int) -> None:
        """So many bytes of rows go for a pending row."""
        self._made[reservation] = nbytes

    def stored(self, reservation: int, nbytes: int) -> None:
        """A row of `nbytes` bytes got in. Where nothing had to go for it, the tier has so much more again."""
        if self._made.pop(reservation, None) is None:
            self._lost = max(0, self._lost - nbytes)
        self._in_vain = self._wait = 0

    def failed(self, reservation: int) -> None:
        """A row did not get in."""
        if (nbytes := self._made.pop(reservation, None)) is not None:
            self._in_vain += 1
            self._wait = min(1 << self._in_vain, MOST_SAVES)
            self._lost += nbytes
