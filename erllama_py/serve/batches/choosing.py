"""Which batch is worked on next, and which is forgotten. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec


class Open(msgspec.Struct, frozen=True):
    """A batch that is not over, in the order of its creation among the others."""

    tenant: str
    id: str
    running: bool
    expires_at: float


def next_batch(open_: Sequence[Open], most: int, tenants: int) -> Open | None:
    """The one to begin: of the tenants that have the fewest running, the oldest.

    While fewer than `most` run, any; beyond, one of a tenant that has none, while fewer than `tenants` have one. So no
    number of batches of one tenant, and no length of theirs, keeps another's from beginning.
    """
    running = Counter(one.tenant for one in open_ if one.running)
    waiting = [one for one in open_ if not one.running]
    if not waiting:
        return None
    first = min(waiting, key=lambda one: running[one.tenant])  # the first of the smallest: the oldest
    own = not running[first.tenant] and len(running) < tenants
    return first if own or running.total() < most else None


def expired(open_: Sequence[Open], now: float) -> Open | None:
    """One whose time was over before its turn came: it ends without one."""
    return next((one for one in open_ if not one.running and one.expires_at <= now), None)


def next_expiry(open_: Sequence[Open]) -> float:
    """When the next of those that wait for their turn expires; infinity: never."""
    return min((one.expires_at for one in open_ if not one.running), default=math.inf)


def too_many(ids_over: Iterable[str], open_count: int, most: int) -> list[str]:
    """Of a tenant's batches, those to forget so that one more can be kept: the oldest of those that are over."""
    over = list(ids_over)
    excess = len(over) + open_count + 1 - most
    return over[: max(0, excess)]
