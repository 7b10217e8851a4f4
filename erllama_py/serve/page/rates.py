"""How fast a counter grows between two readings. Pure."""

from __future__ import annotations


def per_second(now: float, before: float | None, seconds: float) -> float | None:
    """What was added a second.

    None where that is not known: nothing was read before, no time has passed, or it has begun again at 0.
    """
    if before is None or seconds <= 0.0 or now < before:
        return None
    return (now - before) / seconds
