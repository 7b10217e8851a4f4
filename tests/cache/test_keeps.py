"""Rows that are kept for a time: never victims before it is over, within a share, at a bounded cost."""

from __future__ import annotations

import itertools
import random

import pytest
from helpers.rows import chain, meta, stored
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from erllama_py.cache.book import RELEASED, Book
from erllama_py.cache.eviction import choose_victims, evict_bytes
from erllama_py.cache.index import Index
from erllama_py.cache.keeps import KEEP_SHARE, Keeps
from erllama_py.tiers.messages import RowMeta

STORY = list(range(200))
QUOTA = 40_000  # rows of 1,000 bytes each: ten may be kept


def index_of(*rows: RowMeta, quota: int = QUOTA) -> tuple[Index, Book]:
    index = Index()
    index.add_tier("disk", "disk", quota)
    for row in rows:
        index.add("disk", stored(row))
    return index, index.books["disk"]


def victims(index: Index, now: float, excess: int = 1 << 20) -> tuple[bytes, ...]:
    return choose_victims(index, "disk", excess, now)[0]


def test_a_kept_row_and_all_before_it_stay_until_their_time_is_over() -> None:
    """What extends it goes; at the moment at which the time is over it all can."""
    rows = chain(STORY, 10, 20, 30)
    index, book = index_of(*rows)
    assert book.keep(rows[0].key, 60.0, 100.0)
    assert book.keep(rows[1].key, 60.0, 100.0)
    assert victims(index, 159.0) == (rows[2].key,)
    assert set(victims(index, 160.0)) == {row.key for row in rows}


def test_a_row_is_kept_only_with_what_it_extends() -> None:
    """Else a hit on it would need rows that are gone. What is not there is not kept."""
    first, second = chain(STORY, 10, 20)
    index, book = index_of(first, second)
    assert not book.keep(second.key, 60.0, 0.0)
    assert not book.keep(b"\0" * 32, 60.0, 0.0)
    assert book.keep(first.key, 60.0, 0.0)
    assert book.keep(second.key, 600.0, 0.0)
    assert victims(index, 599.0) == ()  # the first as long as the second


def test_what_is_kept_is_only_kept_longer_and_a_use_renews_it() -> None:
    """The longest of all that ask; from a use on, as long as was asked for. What is over is not renewed."""
    (row,) = chain(STORY, 10)
    _, book = index_of(row)
    assert book.keep(row.key, 600.0, 0.0)
    assert book.keep(row.key, 60.0, 10.0)
    assert book.keeps.until(row.key) == 600.0
    assert book.keeps.renew(row.key, 500.0)
    assert book.keeps.until(row.key) == 1100.0
    assert not book.keeps.renew(row.key, 1100.0)
    assert not book.keeps.renew(b"\0" * 32, 0.0)


def test_keeps_take_a_share_of_the_quota_and_no_more() -> None:
    """Who comes first has it; when the time of those is over, others may have it."""
    rows = [meta([1000 + number, *STORY], 0, 10) for number in range(20)]
    index, book = index_of(*rows)
    kept = [book.keep(row.key, 60.0, 0.0) for row in rows]
    assert kept == [True] * (QUOTA // KEEP_SHARE // 1000) + [False] * 10
    assert len(victims(index, 0.0)) == 10
    assert book.keep(rows[-1].key, 60.0, 60.0)


def test_a_device_that_turns_out_smaller_lets_go_of_those_that_end_first() -> None:
    """Else what is kept could be all that it holds, and nothing could be saved."""
    rows = [meta([1000 + number, *STORY], 0, 10) for number in range(10)]
    index, book = index_of(*rows)
    for number, row in enumerate(rows):
        assert book.keep(row.key, 60.0 + number, 0.0)
    book.was_full()
    assert book.capacity == 10_000
    gone = victims(index, 0.0)
    assert set(gone) == {row.key for row in rows[:8]}
    assert book.keeps.nbytes == 2000 <= book.keep_limit


def test_an_application_that_asks_for_bytes_gets_kept_ones_last() -> None:
    """Memory that is short is short; those whose time ends first go first."""
    rows = [meta([1000 + number, *STORY], 0, 10) for number in range(4)]
    index, book = index_of(*rows)
    for number in (1, 2, 3):
        assert book.keep(rows[number].key, 100.0 - number, 0.0)
    gone: list[bytes] = []
    for tier, portion in evict_bytes(index, ["disk"], 2000, 0.0):
        gone += portion
        for key in portion:
            index.drop(tier, key)
    assert gone[0] == rows[0].key
    assert len(gone) >= 2
    assert book.keeps.nbytes == 0


def test_a_row_that_is_reported_again_stays_kept_and_one_that_replaces_it_is_not() -> None:
    """A directory that is still being read reports rows that were saved meanwhile."""
    first, second = chain(STORY, 10, 20)
    index, book = index_of(first, second)
    assert book.keep(first.key, 60.0, 0.0)
    assert book.keep(second.key, 60.0, 0.0)
    index.add("disk", stored(second))
    assert second.key in book.keeps
    index.add("disk", stored(meta(STORY, 0, 20)))
    assert second.key not in book.keeps
    index.drop("disk", first.key)
    assert (len(book.keeps), book.keeps.nbytes) == (0, 0)


def test_choosing_a_victim_does_not_look_at_kept_rows() -> None:
    """However many there are, and however long unused: they are not among the leaves."""
    rows = [meta([1000 + number, *STORY], 0, 10) for number in range(2000)]
    index, book = index_of(*rows, quota=100 << 20)
    for row in rows[:-1]:
        assert book.keep(row.key, 60.0, 0.0)
    assert len(book.leaves) == 1
    assert [*book.leaves.oldest()] == [rows[-1].key]
    assert victims(index, 0.0, 1) == (rows[-1].key,)
    victims(index, 60.0, 1)
    assert len(book.leaves) == RELEASED + 1  # so many a choice


def test_renewals_leave_no_marks_behind() -> None:
    """A row that is used every second for a day has one."""
    keeps = Keeps()
    assert keeps.add(b"row", None, 1, 60.0, 0.0, 1)
    for now in range(5000):
        assert keeps.renew(b"row", now)
        assert keeps.release(now, 1, 9) == []
    assert len(keeps._marks) == 1
    for _ in range(9):  # nor do rows that come and go
        keeps.discard(b"row")
        assert keeps.add(b"row", None, 1, 60.0, 5000.0, 1)
    assert len(keeps._marks) == 1


@pytest.mark.slow
@given(st.data())
@settings(max_examples=60)
def test_what_is_kept_in_a_chain_never_ends_before_what_extends_it(data: st.DataObject) -> None:
    """Whatever is asked for in which order."""
    rows = chain(STORY, *range(10, 110, 10))
    _, book = index_of(*rows)
    now = 0.0
    for _ in range(data.draw(st.integers(1, 30))):
        now += data.draw(st.floats(0.0, 20.0))
        book.keep(data.draw(st.sampled_from(rows)).key, data.draw(st.floats(0.5, 100.0)), now)
        ends = [book.keeps.until(row.key) for row in rows]
        assert all(
            later is None or (sooner is not None and sooner >= later) for sooner, later in itertools.pairwise(ends)
        )


class Tier(RuleBasedStateMachine):
    """A tier under load: rows come, are kept, used and evicted, while the clock goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.index, self.book = index_of()
        self.now = 0.0
        self.pick = random.Random(1)
        self.promised: dict[bytes, float] = {}

    def some(self) -> RowMeta | None:
        """A row that is there."""
        return self.book.rows[self.pick.choice([*self.book.rows])].meta if self.book.rows else None

    @rule(extends=st.booleans(), seconds=st.none() | st.floats(0.5, 50.0))
    def save(self, extends: bool, seconds: float | None) -> None:
        """A row goes in, and what has no room goes out."""
        excess = self.book.stored + 1000 - QUOTA
        for key in choose_victims(self.index, "disk", excess, self.now)[0] if excess > 0 else ():
            assert self.promised.get(key, 0.0) <= self.now
            self.index.drop("disk", key)
        before = self.some() if extends else None
        start = 0 if before is None else before.end
        tokens = [*range(start), self.pick.randrange(1 << 30)]
        row = meta(tokens, start, start + 1) if before is None else self.child(before)
        if self.book.stored + 1000 <= QUOTA:
            self.index.add("disk", stored(row))
            if seconds is not None and self.book.keep(row.key, seconds, self.now):
                self.promised[row.key] = self.now + seconds

    def child(self, before: RowMeta) -> RowMeta:
        """A row that extends this one: only their keys matter here."""
        key = self.pick.randbytes(32)
        return replace(before, key=key, parent=before.key, start=before.end, end=before.end + 1, tokens=b"\1\0\0\0")

    @rule(seconds=st.floats(0.0, 30.0))
    def wait(self, seconds: float) -> None:
        """Time goes on."""
        self.now += seconds

    @rule()
    def use(self) -> None:
        """A hit."""
        row = self.some()
        if row is not None:
            self.index.touch([row.key], self.now)
            self.book.keeps.renew(row.key, self.now)

    @invariant()
    def books_agree(self) -> None:
        """The share holds, bytes are those of the rows, and what was promised is there."""
        kept = [key for key in self.book.rows if key in self.book.keeps]
        assert self.book.keeps.nbytes == 1000 * len(kept) == 1000 * len(self.book.keeps)
        assert self.book.keeps.nbytes <= self.book.keep_limit
        assert all(key not in self.book.leaves for key in kept)
        for key, until in self.promised.items():
            assert until <= self.now or key in self.book.rows
        for key in kept:
            row = self.book.rows[key].meta
            assert row.start == 0 or row.parent in self.book.keeps


TestTier = pytest.mark.slow(Tier.TestCase)
TestTier.settings = settings(max_examples=50, stateful_step_count=60, deadline=None)


@pytest.mark.parametrize("kept", [True, False])
def test_a_tier_that_is_full_of_kept_rows_takes_new_ones(kept: bool) -> None:
    """Three quarters are left to others, whatever a caller asks for."""
    index, book = index_of()
    for number in range(200):
        row = meta([1000 + number, *STORY], 0, 10)
        excess = book.stored + 1000 - QUOTA
        if excess > 0:
            gone, freed = choose_victims(index, "disk", excess, 0.0)
            assert freed >= excess
            for key in gone:
                index.drop("disk", key)
        index.add("disk", stored(row))
        if kept:
            book.keep(row.key, 1e6, 0.0)
    assert len(book.rows) == QUOTA // 1000
