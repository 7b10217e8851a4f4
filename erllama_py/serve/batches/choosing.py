"""Which batch is worked on next, and which is forgotten. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec


class Open(msgspec.Struct, frozen=True):
    """A batch that is not over, in the order of its creation among the others."""

    tenant: str
    id: str
    running: bool


def next_batch(open_: Sequence[Open], most: int) -> Open | None:
    """The one to begin, while fewer than `most` run: of the tenants that have the fewest running, the oldest. So one
    tenant's many batches never keep another's from beginning."""
    running = Counter(one.tenant for one in open_ if one.running)
    waiting = [one for one in open_ if not one.running]
    if running.total() >= most or not waiting:
        return None
    return min(waiting, key=lambda one: running[one.tenant])  # the first of the smallest: the oldest


def too_many(ids_over: Iterable[str], open_count: int, most: int) -> list[str]:
    """Of a tenant's batches, those to forget so that one more can be kept: the oldest of those that are over."""
    over = list(ids_over)
    excess = len(over) + open_count + 1 - most
    return over[: max(0, excess)]
