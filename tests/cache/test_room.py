"""A tier that holds less than its quota: rows go for others when it asks, and never all of them."""

from __future__ import annotations

from helpers.rows import chain, meta, stored
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.cache.eviction import PORTION
from erllama_py.cache.index import Index
from erllama_py.cache.reservation import Refused, Reservations, Reserved
from erllama_py.cache.shortage import PERIOD, Shortage

QUOTA = 100_000


class Tier:
    """Played here: it holds `size` bytes, whatever its quota says; a `greedy` neighbour takes what is removed."""

    def __init__(self, size: int, quota: int = QUOTA) -> None:
        self.size = size
        self.greedy = False
        self.index = Index()
        self.index.add_tier("disk", "disk", quota)
        self.reservations = Reservations(self.index)
        self.evicted = 0
        self.now = 0.0

    def save(self, number: int, nbytes: int = 1000) -> bool:
        """Whether the row went in."""
        row = meta([number], 0, 1)
        self.now += 1.0
        answer = self.reservations.reserve(row, "disk", nbytes, self.now)
        if isinstance(answer, Refused):
            return False
        self.remove(answer.victims)
        if not self.fits(nbytes):
            self.remove(self.reservations.make_room(answer.id, nbytes, self.now), self.greedy)
        if not self.fits(nbytes):
            self.reservations.release(answer.id)
            return False
        self.reservations.settle(answer.id)
        self.index.add("disk", stored(row, nbytes, used_at=self.now))
        self.index.books["disk"].has_taken()
        return True

    def fits(self, nbytes: int) -> bool:
        """Whether the device has room."""
        return self.index.books["disk"].used() + nbytes <= self.size

    def remove(self, keys: tuple[bytes, ...], greedy: bool = False) -> None:
        """Remove rows."""
        before = self.index.books["disk"].used()
        self.reservations.confirm_removed("disk", keys)
        self.evicted += len(keys)
        if greedy:
            self.size -= before - self.index.books["disk"].used()


def test_a_small_device_is_like_a_small_quota() -> None:
    """No save is lost, and one row goes for each."""
    tier = Tier(20_000)
    assert all(tier.save(number) for number in range(200))
    kept = {row.key for row in tier.index.rows()}
    assert kept == {meta([number], 0, 1).key for number in range(180, 200)}
    assert tier.evicted == 180


def test_room_that_becomes_free_is_used_again() -> None:
    """At once, as each row is written before any goes."""
    tier = Tier(20_000)
    for number in range(50):
        tier.save(number)
    evicted, tier.size = tier.evicted, 10 * QUOTA
    assert all(tier.save(number) for number in range(100, 180))
    assert tier.evicted == evicted
    assert tier.index.books["disk"].used() == QUOTA


def test_a_neighbour_that_takes_all_that_becomes_free_does_not_empty_the_tier() -> None:
    """Removals in vain are ever rarer; the tier fills again once the neighbour has enough."""
    tier = Tier(20_000)
    for number in range(20):
        tier.save(number)
    tier.greedy = True
    assert not any(tier.save(number) for number in range(100, 3000))
    assert 10 <= len(tier.index) <= 14
    tier.greedy, tier.size = False, 20_000
    assert all(tier.save(number) for number in range(3000, 3100))
    assert len(tier.index) == 20


def test_a_neighbour_that_has_enough_costs_no_more_than_it_took() -> None:
    """The device is smaller now. The next removal that is not in vain ends the wait."""
    tier = Tier(20_000)
    for number in range(20):
        tier.save(number)
    tier.greedy = True
    assert not tier.save(100)
    tier.greedy = False
    saved = [tier.save(number) for number in range(101, 110)]
    assert saved == [False, False] + [True] * 7
    assert len(tier.index) == 19


@given(st.lists(st.tuples(st.sampled_from(["full", "fits"]), st.booleans(), st.floats(0.0, 100.0)), max_size=300))
def test_what_goes_in_vain_is_half_of_what_was_there_in_an_hour(steps: list[tuple[str, bool, float]]) -> None:
    """And a row more, and what found room in between; whatever the device does."""
    shortage, held, now, start = Shortage(), 100, 0.0, (0.0, 100)
    lost = got_in = 0
    for number, (device, gets_in, seconds) in enumerate(steps):
        now += seconds
        if now - start[0] >= PERIOD:
            return
        if device == "full" and shortage.allows(held, now):
            shortage.made(number, 1)
            if gets_in:
                shortage.stored(number, 1)
            else:
                shortage.failed(number)
                held, lost = held - 1, lost + 1
        elif device == "fits":
            shortage.stored(number, 1)
            held, got_in = held + 1, got_in + 1
    assert lost <= 50 + got_in + 1


def test_a_clock_that_goes_back_begins_another_hour() -> None:
    """Else nothing would go for as long as it was ahead."""
    shortage = Shortage()
    assert shortage.allows(1, 1e12)
    shortage.made(1, 1)
    shortage.failed(1)
    assert [shortage.allows(1, 5.0) for _ in range(3)] == [False, False, True]


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


def test_more_than_all_rows_together_is_not_tried() -> None:
    """Others have put so much below its root that no removal helps: also where there are too many rows for one."""
    tier = Tier(QUOTA, 1 << 30)
    for number in range(2 * PORTION):
        tier.index.add("disk", stored(meta([number], 0, 1)))
    answer = tier.reservations.reserve(meta([1000], 0, 1), "disk", 1000, 0.0)
    assert isinstance(answer, Reserved)
    assert tier.reservations.make_room(answer.id, 1000 * 2 * PORTION + 1, 0.0) == ()
    assert len(tier.reservations.make_room(answer.id, 1000 * 2 * PORTION, 0.0)) == PORTION


def test_a_row_that_is_not_wanted_any_more_gets_no_room() -> None:
    """Its reservation is gone."""
    tier = Tier(20_000)
    tier.save(1)
    answer = tier.reservations.reserve(meta([2], 0, 1), "disk", 1000, 0.0)
    assert isinstance(answer, Reserved)
    tier.reservations.release(answer.id)
    assert tier.reservations.make_room(answer.id, 1000, 0.0) == ()


def test_a_chain_is_given_up_from_its_end_for_a_full_disk_too() -> None:
    """As for a full quota."""
    first, second = chain(list(range(20)), 10, 20)
    tier = Tier(2000)
    for row in (first, second):
        tier.index.add("disk", stored(row))
    assert tier.save(500)
    assert {row.key for row in tier.index.rows()} == {first.key, meta([500], 0, 1).key}
