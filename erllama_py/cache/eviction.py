"""Which rows a tier gives up for room: pure decisions over the index.

Leaves first, never what is pinned or kept for a time (`keeps`). Useless rows go before all others: those made by
another build than the one that runs their model now, and those that extend nothing in the tier. Of the other leaves,
the one goes first that is worth least: hits × prefill time per byte, halved for each `HALF_LIFE` since it was used.

That order is exact among up to `SAMPLE` leaves. With more, those that were not used for longest are compared, a sample
that is refilled as rows are chosen: a save must not wait until a hundred thousand rows are compared, and useless rows
are among the longest unused. That no victim is pinned or has a child there is always exact.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence

from erllama_py.cache.book import Book
from erllama_py.cache.index import Index
from erllama_py.cache.orders import Leaves
from erllama_py.tiers.messages import RowMeta

# A row that saved a second an hour ago is worth as much as one that saves half a second now: within a working session
# recency decides little, overnight it decides almost alone.
HALF_LIFE = 3600.0

# No token takes longer to compute: a row that says so is not to stay for it.
MOST_TOKEN_SECONDS = 60.0

# Enough that one of them is worth little, few enough to be compared in some 0.1 ms.
SAMPLE = 64

# Rows that are chosen, and leave the index, before the event loop turns: 2 ms of work, or 10 beside busy threads.
PORTION = 128

# What the marker and the lock of a directory take of its tier's quota, beside the rows.
OWN_BYTES = 2 * 4096


def score(meta: RowMeta, nbytes: int, hits: int, used_at: float, now: float) -> float:
    """What a row is worth: the seconds of prefill that it saves, times its hits, per byte, halved for each `HALF_LIFE`.

    A row without hits counts as one that was hit once: the next turn may hit it. Times are in seconds. It is the
    logarithm to base 2 that is returned: the worth itself is 0 for any row that was not used for 45 days.
    """
    seconds = min(max(meta.prefill_seconds, 0.0), MOST_TOKEN_SECONDS * (meta.end - meta.start)) + 1e-6
    return math.log2(seconds) + math.log2(1 + hits) - math.log2(max(nbytes, 1)) - max(0.0, now - used_at) / HALF_LIFE


def choose_victims(index: Index, tier: str, excess: int, now: float) -> tuple[tuple[bytes, ...], int]:
    """Rows of `excess` bytes or more to remove from a tier, children before parents, and their bytes.

    Fewer if no more can go; never more than `PORTION` rows. Those that an engine has refused go first, turns where
    nothing else can, and after them what the tier could not remove before.
    """
    book = index.books[tier]
    book.release(now)
    victims, freed = _choose_refused(index, book, excess)
    for order in (book.leaves, book.turn_leaves, book.stuck_leaves):
        more, nbytes = _choose(index, book, order, excess - freed, PORTION - len(victims), now)
        victims, freed = victims + more, freed + nbytes
    return victims, freed


def _choose_refused(index: Index, book: Book, excess: int) -> tuple[tuple[bytes, ...], int]:
    victims: list[bytes] = []
    freed = 0
    for key, copy in book.refused.items():
        if freed >= excess or len(victims) == PORTION:
            break
        if _may_go(index, book, key) and book.stuck_until(key) is None:
            victims.append(key)
            freed += copy.nbytes
    return tuple(victims), freed


def _may_go(index: Index, book: Book, key: bytes) -> bool:
    """Whether nobody reads a refused row; and it is not being saved again, for it must not be removed after that."""
    return key not in book.pending and not index.is_pinned(key)


def choose_turns(index: Index, tier: str, excess: int, now: float) -> tuple[tuple[bytes, ...], int]:
    """As `choose_victims`, of rows of turns alone."""
    book = index.books[tier]
    return _choose(index, book, book.turn_leaves, excess, PORTION, now)


def _choose(
    index: Index, book: Book, order: Leaves, excess: int, most: int, now: float
) -> tuple[tuple[bytes, ...], int]:
    gone: Counter[tuple[bytes, int]] = Counter()  # rows that extend a place and are among the victims
    victims: list[bytes] = []
    freed = 0
    candidates: list[tuple[float, bytes]] = []
    leaves = order.oldest()
    while freed < excess and len(victims) < most:
        if len(candidates) < SAMPLE // 2:
            _refill(index, book, leaves, candidates, now)
        if not candidates:
            break
        _, key = heapq.heappop(candidates)
        copy = book.rows[key]
        victims.append(key)
        freed += copy.nbytes
        place = copy.meta.parent, copy.meta.start
        gone[place] += 1
        if gone[place] == book.links.siblings(copy.meta) and book.has_parent(copy.meta):
            _offer(index, book, copy.meta.parent, candidates, now)
    return tuple(victims), freed


# --- many rows, in portions ----------------------------------------------------------------------------------------
#
# Each portion must be out of the index before the next one is asked for: that is chosen from what is left by then.

Portions = Iterator[tuple[str, tuple[bytes, ...]]]  # a tier and keys of rows in it, `PORTION` at most


def evict_bytes(index: Index, tiers: Sequence[str], nbytes: int, now: float) -> Portions:
    """Rows of `nbytes` bytes or more to remove from several tiers, each giving its share; if need be all that can, kept
    ones last."""
    stored = {tier: index.books[tier].stored for tier in tiers}
    left, rest = nbytes, sum(stored.values())
    for tier in tiers:
        freed = yield from _evict(index, tier, -(-left * stored[tier] // max(rest, 1)), now)
        left, rest = left - freed, rest - stored[tier]
    # What the last ones could not give, the others may.
    for tier in tiers:
        left -= yield from _evict(index, tier, left, now)
    for tier in tiers:
        while left > 0 and (book := index.books.get(tier)) is not None and book.keeps:
            book.release(now, limit=0)
            left -= yield from _evict(index, tier, left, now)
            yield tier, ()


def surplus(index: Index, tier: str, now: float) -> Portions:
    """What a tier that was filled under a larger quota has to give up."""
    while (book := index.books.get(tier)) is not None:
        victims, _ = choose_victims(index, tier, book.stored + OWN_BYTES - book.quota, now)
        if not victims:
            return
        yield tier, victims


def orphans(index: Index, tier: str) -> Portions:
    """Rows of a tier whose chain is broken there, because a row before them is gone; parents before children. Before
    them, those that an engine has refused.

    Pinned ones are left out, with all that extends them: a look-up that found them before, or in another tier, reads
    them.
    """
    unseen, refused = deque(index.books[tier].rows), deque(index.books[tier].refused)
    while refused and (book := index.books.get(tier)) is not None:
        portion = [refused.popleft() for _ in range(min(PORTION, len(refused)))]
        yield tier, tuple(key for key in portion if key in book.refused and _may_go(index, book, key))
    while unseen and (book := index.books.get(tier)) is not None:
        portion = [unseen.popleft() for _ in range(min(PORTION, len(unseen)))]
        found = [
            key
            for key in portion
            if (copy := book.rows.get(key)) is not None
            and not (book.has_parent(copy.meta) or key in book.pending or index.is_pinned(key))
        ]
        for key in found:
            unseen.extend(book.links.children(key, book.rows[key].meta.end))
        yield tier, tuple(found)


def _evict(index: Index, tier: str, nbytes: int, now: float) -> Generator[tuple[str, tuple[bytes, ...]], None, int]:
    """Portions of one tier; returns their bytes."""
    freed = 0
    while freed < nbytes and tier in index.books:
        victims, more = choose_victims(index, tier, nbytes - freed, now)
        if not victims:
            break
        yield tier, victims
        freed += more
    return freed


# --- inside --------------------------------------------------------------------------------------------------------


def _refill(
    index: Index, book: Book, leaves: Iterator[bytes], candidates: list[tuple[float, bytes]], now: float
) -> None:
    for key in leaves:
        _offer(index, book, key, candidates, now)
        if len(candidates) >= SAMPLE:
            return


def _offer(index: Index, book: Book, key: bytes, candidates: list[tuple[float, bytes]], now: float) -> None:
    copy = book.rows.get(key)
    # A row that is being saved again under its key must not be removed after that.
    if copy is None or key in book.pending or key in book.keeps or index.is_pinned(key):
        return
    useless = book.is_stale(copy.meta) or not book.has_parent(copy.meta)
    worth = -math.inf if useless else score(copy.meta, copy.nbytes, copy.hits, copy.used_at, now)
    if (until := book.stuck_until(key)) is not None:  # in the order in which they were tried
        worth = until
    heapq.heappush(candidates, (worth, key))
