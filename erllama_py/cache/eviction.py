"""Which rows a tier gives up for room: pure decisions over the index.

Leaves first, never what is pinned. Of the leaves the one goes whose hits and prefill time are worth least for its
bytes, halved for each `HALF_LIFE` since it was used; before those go rows that are of no use: made by another build
than the one that runs their model now, or with nothing in the tier that they go on from.

That order is exact among up to `SAMPLE` leaves. With more, those that were not used for longest are compared, a sample
that is refilled as rows are chosen: a save must not wait for a look at a hundred thousand rows, and what is of no use
is not used. That no victim is pinned or has a child there is always exact.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing

from erllama_py.cache.index import Index, Row
from erllama_py.tiers.messages import RowMeta

# A row that saved a second an hour ago is worth as much as one that saves half a second now: within a working session
# recency decides little, overnight it decides almost alone.
HALF_LIFE = 3600.0

# Enough that one of them is worth little, few enough to be compared in some 0.1 ms.
SAMPLE = 64


def score(meta: RowMeta, nbytes: int, hits: int, used_at: float, now: float) -> float:
    """What a row is worth: seconds of prefill that it spares, by its hits, per byte, halved for each `HALF_LIFE`.

    A row without hits counts as one that was hit once: it may be the next turn's. Times are in seconds.
    """
    age = max(0.0, now - max(used_at, meta.created_at))
    return (meta.prefill_seconds + 1e-6) * (1 + hits) / max(nbytes, 1) * math.exp2(-age / HALF_LIFE)


def choose_victims(index: Index, tier: str, excess: int, now: float) -> tuple[bytes, ...] | None:
    """Rows of `excess` bytes or more to remove from a tier, children before parents; None when there are not enough."""
    victims, freed = _choose(index, tier, excess, now)
    return victims if freed >= excess else None


def as_many_as_can_be(index: Index, tier: str, excess: int, now: float) -> tuple[bytes, ...]:
    """As `choose_victims`; where there are not enough, all that can go."""
    return _choose(index, tier, excess, now)[0]


def evict_bytes(index: Index, tiers: Sequence[str], nbytes: int, now: float) -> dict[str, tuple[bytes, ...]]:
    """Rows of `nbytes` bytes or more to remove from several tiers, each giving its share; if need be all that can."""
    stored = {tier: index.books[tier].stored for tier in tiers}
    chosen: dict[str, tuple[bytes, ...]] = {}
    freed = dict.fromkeys(tiers, 0)
    for place, tier in enumerate(tiers):
        left = nbytes - sum(freed.values())
        rest = sum(stored[other] for other in tiers[place:])
        chosen[tier], freed[tier] = _choose(index, tier, -(-left * stored[tier] // max(rest, 1)), now)
    # What the last ones could not give, the others may.
    for tier in tiers:
        left = nbytes - sum(freed.values())
        if left > 0:
            chosen[tier], freed[tier] = _choose(index, tier, freed[tier] + left, now)
    return {tier: victims for tier, victims in chosen.items() if victims}


def _choose(index: Index, tier: str, excess: int, now: float) -> tuple[tuple[bytes, ...], int]:
    """Rows of `excess` bytes or more, or all that can go; and their bytes."""
    book = index.books[tier]
    gone: Counter[bytes] = Counter()  # kids of a key that are among the victims
    victims: list[bytes] = []
    freed = 0
    candidates: list[tuple[float, bytes]] = []
    with closing(book.leaves.oldest()) as leaves:
        while freed < excess:
            if len(candidates) < SAMPLE // 2:
                _refill(index, tier, leaves, candidates, now)
            if not candidates:
                break
            _, key = heapq.heappop(candidates)
            copy = _row(index, key).copies[tier]
            victims.append(key)
            freed += copy.nbytes
            parent = copy.meta.parent
            gone[parent] += 1
            if gone[parent] == book.kids[parent]:
                _offer(index, tier, parent, candidates, now)
    return tuple(victims), freed


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
    if row is None or tier not in row.copies or index.is_pinned(key):
        return
    copy = row.copies[tier]
    useless = index.is_stale(copy.meta) or not index.has_parent(tier, copy.meta)
    worth = -1.0 if useless else score(copy.meta, copy.nbytes, row.hits, row.used_at, now)
    heapq.heappush(candidates, (worth, key))
