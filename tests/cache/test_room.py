"""A tier that holds less than its quota: learnt from what it refuses, and forgotten with what it takes."""

from __future__ import annotations

from helpers.rows import chain, meta, stored

from erllama_py.cache.book import TRY_SHARE
from erllama_py.cache.index import Index
from erllama_py.cache.reservation import Refused, Reservations, Reserved

QUOTA = 100_000


class Tier:
    """Played here: it holds `size` bytes, whatever its quota says."""

    def __init__(self, size: int, quota: int = QUOTA) -> None:
        self.size = size
        self.index = Index()
        self.index.add_tier("disk", "disk", quota)
        self.reservations = Reservations(self.index)
        self.evicted = 0

    def save(self, number: int, nbytes: int = 1000) -> bool:
        """Whether the row went in."""
        row = meta([number], 0, 1)
        answer = self.reservations.reserve(row, "disk", nbytes, float(number))
        if isinstance(answer, Refused):
            return False
        self.evicted += len(answer.victims)
        self.reservations.confirm_removed("disk", answer.victims)
        book = self.index.books["disk"]
        if book.used() + nbytes > self.size:
            self.reservations.release(answer.id)
            book.was_full()
            return False
        self.reservations.settle(answer.id)
        self.index.add("disk", stored(row, nbytes, used_at=float(number)))
        book.has_taken(nbytes)
        return True


def test_a_tier_that_was_full_gives_rows_up_for_the_next_ones() -> None:
    """One save is lost, and then one in about `TRY_SHARE`; what was used last is there."""
    tier = Tier(20_000)
    saved = [tier.save(number) for number in range(200)]
    assert saved[:22] == [True] * 20 + [False, True]
    assert saved.count(False) == round(180 / (TRY_SHARE + 1)) - 1
    kept = {row.key for row in tier.index.rows()}
    assert len(kept) >= 18
    assert kept <= {meta([number], 0, 1).key for number in range(180 - 2 * 20, 200)}


def test_room_that_becomes_free_is_used_again() -> None:
    """It shows with a row or two more than the tier could hold; then all of the quota is there."""
    tier = Tier(20_000)
    for number in range(50):
        tier.save(number)
    tier.size = 10 * QUOTA
    assert all(tier.save(number) for number in range(50, 50 + 2 * TRY_SHARE))
    evicted = tier.evicted
    assert all(tier.save(number) for number in range(100, 140))
    assert tier.evicted == evicted
    assert all(tier.save(number) for number in range(200, 300))
    assert tier.index.books["disk"].used() == QUOTA


def test_a_disk_that_others_have_filled_is_tried_again_with_each_row() -> None:
    """It holds nothing now: so nothing can be evicted, and nothing is refused before it was tried."""
    tier = Tier(0)
    assert [tier.save(number) for number in range(5)] == [False] * 5
    tier.size = QUOTA
    assert all(tier.save(number) for number in range(5, 105))
    assert tier.evicted == 0


def test_a_row_that_is_larger_than_all_that_fits_costs_no_other() -> None:
    """It is tried, and nothing goes for it."""
    tier = Tier(20_000)
    for number in range(25):
        tier.save(number)
    evicted, rows = tier.evicted, len(tier.index)
    assert not tier.save(1000, 30_000)
    assert (tier.evicted, len(tier.index)) == (evicted, rows)


def test_saves_that_fail_one_after_the_other_evict_nothing_more() -> None:
    """Ten rows pending in a full tier all fail for the same cause."""
    tier = Tier(20_000)
    for number in range(20):
        tier.save(number)
    waiting = [tier.reservations.reserve(meta([number], 0, 1), "disk", 1000, 0.0) for number in range(100, 110)]
    for answer in waiting:
        assert isinstance(answer, Reserved)
        assert answer.victims == ()
        tier.reservations.release(answer.id)
        tier.index.books["disk"].was_full()
    assert tier.save(200)
    assert tier.evicted == 1


def test_bytes_that_are_still_being_removed_are_room_to_come() -> None:
    """They lie in the tier when it says that it is full, and are free for the rows after that."""
    tier = Tier(20_000)
    for number in range(20):
        tier.save(number)
    book = tier.index.books["disk"]
    (gone, *_) = tier.index.rows()
    tier.reservations.remove("disk", [gone.key])
    book.was_full()
    tier.reservations.confirm_removed("disk", [gone.key])
    assert tier.save(100)
    assert tier.evicted == 0


def test_a_chain_is_given_up_from_its_end_for_a_full_disk_too() -> None:
    """As for a full quota."""
    first, second = chain(list(range(20)), 10, 20)
    tier = Tier(2000)
    for row in (first, second):
        tier.index.add("disk", stored(row))
    assert not tier.save(500)
    assert tier.save(501)
    assert {row.key for row in tier.index.rows()} == {first.key, meta([501], 0, 1).key}
