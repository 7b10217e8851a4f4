"""When a download that broke off, or a question to the hub, is tried again. Pure."""

from __future__ import annotations

# Seconds before a try, by the tries in a row that brought nothing: a connection that was cut is taken up at once.
WAITS = (0.0, 1.0, 2.0, 4.0, 8.0)
# Tries of a listing, in which no bytes are lost: somebody waits for the word that there is no network.
LISTINGS = 4
# Answers after which another try may do: too slow, too early, too many, out of order.
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


def failures_after(failures: int, received: int) -> int:
    """Tries in a row that brought nothing, when another one has failed after `received` bytes."""
    return 0 if received else failures + 1


def wait_before(failures: int) -> float | None:
    """Seconds before the next try; None where there is none."""
    return WAITS[failures] if failures < len(WAITS) else None
