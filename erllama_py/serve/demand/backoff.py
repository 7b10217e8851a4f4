"""When a model whose load failed is tried again: after a second, then after twice as long each time. Pure."""

from __future__ import annotations

FIRST_SECONDS = 1.0
MOST_SECONDS = 60.0  # so that a file that was put right is found within a minute


def pause(failures: int) -> float:
    """Seconds until the next try, after so many failures in a row."""
    return min(MOST_SECONDS, FIRST_SECONDS * 2.0 ** min(failures - 1, 10))
