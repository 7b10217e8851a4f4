"""Reservations against a tier that is played here: a queue in order, and bytes that may never exceed the quota.

The machine plays the actor and the tier by their protocol: victims are removed before the bytes that need
their room, parents come before children, and what does not stand any more is not stored.
"""

from __future__ import annotations

import itertools
from collections import deque

import pytest
from helpers.rows import IDENTITY, chain, meta, stored
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from erllama_py.cache.eviction import evict_bytes, orphans
from erllama_py.cache.index import Index
from erllama_py.cache.keys import pack_tokens
from erllama_py.cache.reservation import Refused, Reservations, Reserved
from erllama_py.cache.walk import walk
from erllama_py.tiers.messages import RowMeta

QUOTA = 10_000
STORY = list(range(100))
PLACES = st.integers(0, 50)


class Life(RuleBasedStateMachine):
    """Saves, look-ups, failures, losses and evictions in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.index = Index()
        self.index.add_tier("disk", "disk", QUOTA)
        self.reservations = Reservations(self.index)
        self.now = 0.0
        self.holders = itertools.count()
        self.pinned: dict[int, bytes] = {}
        self.queue: deque[tuple[tuple[bytes, ...], int, RowMeta | None, int]] = deque()  # of the tier
        self.files: dict[bytes, tuple[RowMeta, int]] = {}  # what the tier holds, with its sizes

    @rule(letters=st.lists(st.integers(0, 1), min_size=1, max_size=5), length=st.integers(1, 3),
          nbytes=st.integers(1, 4000))  # fmt: skip
    def save(self, letters: list[int], length: int, nbytes: int) -> None:
        self.now += 1
        row = meta(letters, max(0, len(letters) - length), len(letters))
        before = {one.key for one in self.index.rows()}
        answer = self.reservations.reserve(row, "disk", nbytes, self.now)
        if isinstance(answer, Refused):
            assert {one.key for one in self.index.rows()} == before
            return
        self.check_victims(answer.victims)
        self.queue.append((answer.victims, answer.id, row, nbytes))

    @rule(nbytes=st.integers(1, 5000))
    def make_room(self, nbytes: int) -> None:
        for _, keys in evict_bytes(self.index, ["disk"], nbytes, self.now):
            self.reservations.remove("disk", keys)
            self.check_victims(keys)
            self.queue.append((keys, 0, None, 0))

    def check_victims(self, victims: tuple[bytes, ...]) -> None:
        assert not set(victims) & set(self.pinned.values())
        for row in self.index.rows():
            assert not {known.parent for known in row.metas()} & set(victims)

    @precondition(lambda self: self.queue)
    @rule(share=st.integers(1, 10), fails=st.booleans())
    def work(self, share: int, fails: bool) -> None:
        """The tier does the next job; a row that fails is released."""
        victims, number, row, nbytes = self.queue.popleft()
        for key in victims:
            self.files.pop(key, None)
        self.reservations.confirm_removed("disk", victims)
        if row is None:
            return
        if fails or not self.reservations.stands(number):
            self.reservations.release(number)
            assert not self.reservations.stands(number)
            return
        written = max(1, nbytes * share // 10)
        self.files[row.key] = row, written
        self.reservations.settle(number)
        self.index.add("disk", stored(row, written, used_at=self.now))

    @precondition(lambda self: self.files)
    @rule(place=PLACES)
    def lose(self, place: int) -> None:
        """A file turns out to be damaged."""
        key = sorted(self.files)[place % len(self.files)]
        del self.files[key]
        self.index.drop("disk", key, "bad")

    @rule(place=PLACES)
    def pin(self, place: int) -> None:
        rows = list(self.index.rows())
        if rows:
            holder, key = next(self.holders), rows[place % len(rows)].key
            self.pinned[holder] = key
            self.index.pin([key], holder)
            self.index.touch([key], self.now)

    @precondition(lambda self: self.pinned)
    @rule(place=PLACES)
    def unpin(self, place: int) -> None:
        holder = list(self.pinned)[place % len(self.pinned)]
        self.index.unpin_all(holder)
        del self.pinned[holder]

    @rule()
    def restart_tier(self) -> None:
        """What was pending is given up; what is there comes back in another order, what is to be removed too."""
        self.reservations.release_tier("disk")
        assert len(self.reservations) == 0
        self.index.add_tier("disk", "disk", QUOTA)
        for row, nbytes in reversed(self.files.values()):
            self.index.add("disk", stored(row, nbytes))

    @invariant()
    def the_tier_never_holds_more_than_its_quota(self) -> None:
        assert sum(nbytes for _, nbytes in self.files.values()) <= self.index.books["disk"].used() <= QUOTA

    @invariant()
    def what_is_promised_fits(self) -> None:
        book = self.index.books["disk"]
        assert book.stored + book.reserved <= QUOTA
        assert book.stored == sum(row.copies["disk"].nbytes for row in self.index.rows())

    @invariant()
    def what_can_be_found_is_there(self) -> None:
        assert {row.key for row in self.index.rows() if "disk" in row.copies} <= set(self.files)

    @invariant()
    def nothing_stands_that_hangs_on_nothing(self) -> None:
        for number, one in self.reservations._open.items():
            assert self.reservations.stands(number) == self.is_whole(one.meta)

    def is_whole(self, row: RowMeta) -> bool:
        """Whether rows that are stored or pending lead to it, whichever copy of a key."""
        book = self.index.books["disk"]
        before = [book.pending.get(row.parent), *[copy.meta for key, copy in book.rows.items() if key == row.parent]]
        return row.start == 0 or any(one is not None and self.is_whole(one) for one in before)


TestLife = pytest.mark.slow(Life.TestCase)
TestLife.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def reserve(reservations: Reservations, row: RowMeta, tier: str = "disk") -> int:
    answer = reservations.reserve(row, tier, 1000, 0.0)
    assert isinstance(answer, Reserved)
    return answer.id


def disk_with(*rows: RowMeta) -> tuple[Index, Reservations]:
    index = Index()
    index.add_tier("disk", "disk", QUOTA)
    for row in rows:
        index.add("disk", stored(row))
    return index, Reservations(index)


def test_a_reservation_does_not_stand_once_the_row_before_it_is_lost() -> None:
    """A file that is found damaged while the next row is pending; it stands again if the row comes back."""
    first, second = chain(STORY, 10, 20)
    index, reservations = disk_with(first)
    number = reserve(reservations, second)
    index.drop("disk", first.key, "bad")
    assert not reservations.stands(number)
    index.add("disk", stored(first))
    assert reservations.stands(number)


def test_a_row_after_a_lost_one_is_saved_again_with_another_start() -> None:
    """The old copy is not found any more; what extends it is found again after the new one."""
    first, second, third = chain(STORY, 10, 20, 30)
    index, reservations = disk_with(second, third)
    packed = pack_tokens(STORY[:30])
    assert walk(index, IDENTITY, packed, cuttable=False).length == 0
    other = meta(STORY, 0, 20)
    number = reserve(reservations, other)
    assert reservations.reserve(other, "disk", 1000, 0.0) == Refused("duplicate")
    assert reservations.reserve(third, "disk", 1000, 0.0) == Refused("duplicate")
    reservations.settle(number)
    index.add("disk", stored(other))
    assert [row.meta for row in walk(index, IDENTITY, packed, cuttable=False).chain] == [other, third]
    book = index.books["disk"]
    assert (book.stored, book.reserved, [*book.links.children(first.key, first.end)], len(book)) == (2000, 0, [], 2)
    assert reservations.reserve(second, "disk", 1000, 0.0) == Refused("duplicate")


def test_a_row_that_extends_one_after_a_lost_one_has_no_parent() -> None:
    """However long the chain between them is; nor does it stand, if the row was lost meanwhile."""
    rows = chain(STORY, *range(10, 91, 10))
    index, reservations = disk_with(*rows[:-1])
    number = reserve(reservations, rows[-1])
    index.drop("disk", rows[0].key, "bad")
    assert not reservations.stands(number)
    reservations.release(number)
    assert reservations.reserve(rows[-1], "disk", 1000, 0.0) == Refused("no_parent")


def test_a_row_that_is_saved_again_is_no_victim() -> None:
    """It would be removed after the new copy was stored, and that with it."""
    _, second = chain(STORY, 10, 20)
    index, reservations = disk_with(second, *[meta([number], 0, 1) for number in range(8)])
    reserve(reservations, meta(STORY, 0, 20))
    answer = reservations.reserve(meta([50], 0, 1), "disk", 8000, 0.0)
    assert isinstance(answer, Reserved)
    assert (len(answer.victims), second.key in answer.victims) == (8, False)
    assert [key for _, keys in orphans(index, "disk") for key in keys] == []


def test_a_long_pending_chain_is_given_up_as_one() -> None:
    """Far more rows than calls may be nested."""
    tokens = list(range(1100))
    rows = chain(tokens, *range(1, 1100))
    index = Index()
    index.add_tier("disk", "disk", 1 << 30)
    reservations = Reservations(index)
    first, *_ = [reserve(reservations, row) for row in rows]
    assert reservations.release(first) == [row.key for row in rows]
    assert len(reservations) == len(index) == 0


def test_a_cache_that_was_restarted_does_not_know_the_saves_of_the_one_before() -> None:
    """Not even when it has made as many reservations itself."""
    (row,) = chain(STORY, 10)
    before = reserve(disk_with()[1], row)
    _, reservations = disk_with()
    reserve(reservations, row)
    assert not reservations.stands(before)


def test_bytes_of_victims_count_until_the_tier_has_let_go_of_them() -> None:
    """The index does not find them any more; the tier still holds them."""
    index, reservations = disk_with(*[meta([number], 0, 1) for number in range(10)])
    answer = reservations.reserve(meta([50], 0, 1), "disk", 2000, 0.0)
    assert isinstance(answer, Reserved)
    assert (len(answer.victims), len(list(index.rows())), index.books["disk"].used()) == (2, 8, QUOTA)
    reservations.confirm_removed("disk", answer.victims)
    assert index.books["disk"].used() == 8000


def test_a_row_that_was_saved_again_before_the_tier_confirms_its_removal_stays() -> None:
    """The confirmation is of the row that was there before."""
    (row,) = chain(STORY, 10)
    index, reservations = disk_with(row)
    reservations.remove("disk", [row.key])
    reservations.settle(reserve(reservations, row))
    index.add("disk", stored(row))
    reservations.confirm_removed("disk", [row.key])
    assert index.books["disk"].used() == 1000


def test_a_refusal_evicts_nothing() -> None:
    """No room is no reason to lose rows."""
    rows = [meta([number], 0, 1) for number in range(10)]
    index, reservations = disk_with(*rows)
    index.pin([rows[0].key], "reader")
    assert reservations.reserve(meta([50], 0, 1), "disk", QUOTA, 0.0) == Refused("no_room")
    assert (len(index), index.books["disk"].used(), index.books["disk"].reserved) == (10, QUOTA, 0)


def test_a_save_that_fails_in_one_tier_goes_on_in_another() -> None:
    """What extends it is given up only where it failed."""
    first, second = chain(STORY, 10, 20)
    index, reservations = disk_with()
    index.add_tier("ram", "ram", QUOTA)
    numbers = {
        (row.end, tier): reserve(reservations, row, tier) for row in (first, second) for tier in list(index.books)
    }
    assert reservations.release(numbers[10, "disk"]) == [first.key, second.key]
    assert [key for key, number in numbers.items() if reservations.stands(number)] == [(10, "ram"), (20, "ram")]
