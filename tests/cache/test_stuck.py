"""Rows that their tier cannot remove: found as before, and tried again after all others."""

from __future__ import annotations

import pytest
from helpers.cache_bench import running
from helpers.rows import meta, stored

from erllama_py.cache.book import STUCK_SECONDS
from erllama_py.cache.eviction import choose_victims
from erllama_py.cache.index import Index
from erllama_py.cache.messages import EvictBytes
from erllama_py.cache.reservation import Reservations
from erllama_py.tiers.messages import Removed, RowLost


class Tier:
    """Rows of 1,000 bytes, the row `number` used at `number`; those in `immovable` cannot be removed."""

    def __init__(self, count: int) -> None:
        self.index = Index()
        self.index.add_tier("disk", "disk", 1 << 30)
        self.reservations = Reservations(self.index)
        self.immovable: set[int] = set()
        self.rows = [meta([number], 0, 1) for number in range(count)]
        for number, row in enumerate(self.rows):
            self.index.add("disk", stored(row, used_at=float(number)))

    def evict(self, now: float, count: int = 1) -> list[int]:
        """Choose so many, and try to remove them; which were chosen."""
        keys, _ = choose_victims(self.index, "disk", 1000 * count, now)
        chosen = [next(number for number, row in enumerate(self.rows) if row.key == key) for key in keys]
        self.reservations.remove("disk", keys)
        for number in chosen:
            row = self.rows[number]
            if number in self.immovable:
                self.reservations.put_back("disk", stored(row, used_at=float(number)), now)
            else:
                self.reservations.confirm_removed("disk", [row.key])
        return chosen


def test_a_row_that_cannot_be_removed_is_chosen_after_all_others_for_a_while() -> None:
    """So one file costs a save each minute at most."""
    tier = Tier(6)
    tier.immovable = {0}
    assert [tier.evict(1000.0) for _ in range(3)] == [[0], [1], [2]]
    assert [tier.evict(1000.0 + STUCK_SECONDS) for _ in range(2)] == [[0], [3]]
    assert [tier.evict(1000.0 + STUCK_SECONDS) for _ in range(4)] == [[4], [5], [0], [0]]
    assert len(tier.index) == 1


def test_where_nothing_can_be_removed_all_are_tried_in_turn() -> None:
    """And none of them is lost."""
    tier = Tier(4)
    tier.immovable = {0, 1, 2, 3}
    tried = [tier.evict(1000.0 + number) for number in range(8)]
    assert sorted(map(tuple, tried[:4])) == sorted(map(tuple, tried[4:])) == [(0,), (1,), (2,), (3,)]
    assert len(tier.index) == 4


def test_once_one_can_be_removed_the_order_is_that_of_their_use_again() -> None:
    """Else new rows would go before old ones that were in the way for a moment."""
    tier = Tier(4)
    tier.immovable = {0, 1, 2, 3}
    assert sorted(tier.evict(1000.0, 4)) == [0, 1, 2, 3]
    tier.immovable.clear()
    tier.index.touch([tier.rows[2].key], 2000.0)
    new = meta([9], 0, 1)
    tier.rows.append(new)
    tier.evict(1001.0)
    tier.index.add("disk", stored(new, used_at=1001.0))
    assert {number for _ in range(2) for number in tier.evict(1002.0)} <= {0, 1, 3}


@pytest.mark.anyio
async def test_rows_that_could_not_be_removed_are_found_again_and_not_counted() -> None:
    """What the tier reports as gone is forgotten, and nothing else."""
    gone, left = meta([1], 0, 1), meta([2], 0, 1)
    async with running() as bench:
        bench.disk.left = {left.key: stored(left)}
        bench.tier([gone, left])
        assert await bench.ref.call(EvictBytes(1 << 30, ("disk",))) == 1000
        counters = await bench.settled()
        assert (counters["evicted.disk"], counters["evicted_bytes.disk"]) == (1, 1000)
        book = bench.actor.index.books["disk"]
        assert (list(book.rows), book.removing, book.used()) == ([left.key], {}, 1000)
        bench.disk.left = {}
        assert await bench.ref.call(EvictBytes(1 << 30, ("disk",))) == 1000
        assert (await bench.settled())["evicted.disk"] == 2
        assert list(book.rows) == []


@pytest.mark.anyio
async def test_a_refused_row_that_could_not_be_removed_is_not_the_first_to_go_for_ever() -> None:
    """It is found again, as after a restart, and others go before it."""
    row, other = meta([1], 0, 1), meta([2], 0, 1)
    async with running() as bench:
        bench.disk.left = {row.key: stored(row)}
        bench.tier([row, other])
        bench.tell(RowLost("disk", row.key, "refused"))
        assert await bench.ref.call(EvictBytes(1, ("disk",))) == 0
        book = bench.actor.index.books["disk"]
        assert (sorted(book.rows), book.refused, book.used()) == (sorted([row.key, other.key]), {}, 2000)
        bench.tell(RowLost("disk", row.key, "refused"))
        assert await bench.ref.call(EvictBytes(1, ("disk",))) == 1000
        assert (list(book.rows), list(book.refused), book.used()) == ([], [row.key], 1000)


@pytest.mark.anyio
async def test_a_tier_that_does_not_know_what_is_left_introduces_itself() -> None:
    """As before."""
    row = meta([1], 0, 1)
    async with running() as bench:
        bench.tier([row])
        bench.tell(Removed("disk", (row.key,), ok=False))
        await bench.settled()
        assert "Introduce" in {type(message).__name__ for message in bench.disk.told}
