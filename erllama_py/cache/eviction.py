"""Which rows a tier gives up for room: pure decisions over the index.

Leaves first, never what is pinned. Rows that are of no use go before all others: those of another build, and those
that nothing can reach. Of the rest the one goes whose hits and prefill time are worth least for its bytes, halved for
each `HALF_LIFE` since it was used. With many leaves only the `SAMPLE` least recently used are compared: what is of no
use, or worth little, has not been used for long, and a save must not wait for a look at a hundred thousand rows.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterator, Sequence

from erllama_py.cache.index import Index, Row
from erllama_py.tiers.messages import RowMeta

# A row that saved a second an hour ago is worth as much as one that saves half a second now: within a working session
# recency decides little, overnight it decides almost alone.
HALF_LIFE = 3600.0

SAMPLE = 64


def score(meta: RowMeta, nbytes: int, hits: int, used_at: float, now: float) -> float:
    """What a row is worth: seconds of prefill that it spares, by its hits, per byte, halved for each `HALF_LIFE`.

    A row without hits counts as one that was hit once: it may be the next turn's. Times are in seconds.
    """
    age = max(0.0, now - max(used_at, meta.created_at))
    return (meta.prefill_seconds + 1e-6) * (1 + hits) / max(nbytes, 1) * math.exp2(-age / HALF_LIFE)


def choose_victims(index: Index, tier: str, excess: int, now: float) -> tuple[bytes, ...] | None:
    """Rows of `excess` bytes or more to remove from a tier, children before parents; None when there are not enough."""
    if excess <= 0:
        return ()
    book = index.books[tier]
    gone: Counter[bytes] = Counter()  # kids of a key that are among the victims
    victims: list[bytes] = []
    candidates: list[tuple[float, bytes]] = []
    leaves = iter(book.leaves)
    _refill(index, tier, leaves, candidates, now)
    while excess > 0:
        if not candidates:
            return None
        _, key = heapq.heappop(candidates)
        copy = _row(index, key).copies[tier]
        victims.append(key)
        excess -= copy.nbytes
        parent = copy.meta.parent
        gone[parent] += 1
        if gone[parent] == book.kids[parent]:
            _offer(index, tier, parent, candidates, now)
        if len(candidates) < SAMPLE // 2:
            _refill(index, tier, leaves, candidates, now)
    return tuple(victims)


def evict_bytes(index: Index, tiers: Sequence[str], nbytes: int, now: float) -> dict[str, tuple[bytes, ...]]:
    """Rows of `nbytes` bytes or more to remove from several tiers, each giving its share; if need be all that can."""
    stored = {tier: index.books[tier].stored for tier in tiers}
    left, chosen = nbytes, {}
    for place, tier in enumerate(tiers):
        rest = sum(stored[other] for other in tiers[place:])
        share = left if place == len(tiers) - 1 else -(-left * stored[tier] // max(rest, 1))
        victims = as_many_as_can_be(index, tier, share, now)
        left -= sum(_row(index, key).copies[tier].nbytes for key in victims)
        if victims:
            chosen[tier] = victims
    return chosen


def as_many_as_can_be(index: Index, tier: str, excess: int, now: float) -> tuple[bytes, ...]:
    """As `choose_victims`; where there are not enough, all that can go."""
    victims = choose_victims(index, tier, min(excess, index.books[tier].stored), now)
    if victims is not None:
        return victims
    # Something is pinned, or goes on from what is on its way: halve until it can be had.
    low, high = 0, min(excess, index.books[tier].stored)
    found: tuple[bytes, ...] = ()
    while high - low > 1:
        middle = (low + high) // 2
        got = choose_victims(index, tier, middle, now)
        if got is None:
            high = middle
        else:
            low, found = middle, got
    return found


def _row(index: Index, key: bytes) -> Row:
    row = index.get(key)
    assert row is not None
    return row


def _refill(
    index: Index, tier: str, leaves: Iterator[bytes], candidates: list[tuple[float, bytes]], now: float
) -> None:
    for key in leaves:
        _offer(index, tier, key, candidates, now)
        if len(candidates) >= SAMPLE:
            return


def _offer(index: Index, tier: str, key: bytes, candidates: list[tuple[float, bytes]], now: float) -> None:
    row = index.get(key)
    if row is None or tier not in row.copies or row.pins:
        return
    copy = row.copies[tier]
    useless = index.is_stale(copy.meta) or _is_orphan(index, tier, copy.meta)
    worth = -1.0 if useless else score(copy.meta, copy.nbytes, row.hits, row.used_at, now)
    heapq.heappush(candidates, (worth, key))


def _is_orphan(index: Index, tier: str, meta: RowMeta) -> bool:
    if meta.start == 0:
        return False
    parent = index.get(meta.parent)
    return parent is None or (tier not in parent.copies and tier not in parent.reserved)
