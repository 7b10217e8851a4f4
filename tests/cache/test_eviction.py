"""Which rows go when room is needed: never pinned or extended ones, never more than the quota holds."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from helpers.rows import chain, meta, stored
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from erllama_py.cache.eviction import HALF_LIFE, choose_victims, evict_bytes, score
from erllama_py.cache.index import Index
from erllama_py.cache.keys import Identity
from erllama_py.cache.reservation import OVERHEAD, Refused, Reservations, Reserved, row_bytes
from erllama_py.tiers.messages import RowMeta

QUOTA = 20_000
STORY = list(range(100))


def index_of(*rows: RowMeta, quota: int = QUOTA) -> Index:
    index = Index()
    index.add_tier("disk", "disk", quota)
    for row in rows:
        index.add("disk", stored(row))
    return index


def test_children_go_before_parents() -> None:
    """A chain is given up from its end."""
    rows = chain(STORY, 10, 20, 30)
    index = index_of(*rows)
    assert choose_victims(index, "disk", 1, 0.0) == ((rows[2].key,), 1000)
    for excess in (2500, 3001):  # the last is more than there is
        assert choose_victims(index, "disk", excess, 0.0) == (tuple(row.key for row in reversed(rows)), 3000)


def test_a_parent_goes_only_after_all_of_its_children() -> None:
    """However little it is worth itself."""
    parent = meta(STORY, 0, 10, prefill_seconds=0.001)
    children = [meta([*STORY[:10], 1000 + number], 10, 11) for number in range(3)]
    victims, _ = choose_victims(index_of(parent, *children), "disk", 4000, 0.0)
    assert set(victims[:-1]) == {child.key for child in children}
    assert victims[-1] == parent.key


def test_a_pinned_row_stays_and_so_does_all_before_it() -> None:
    """Whoever reads a chain keeps it."""
    rows = chain(STORY, 10, 20, 30)
    index = index_of(*rows)
    index.pin([rows[1].key], "reader")
    assert choose_victims(index, "disk", 5000, 0.0) == ((rows[2].key,), 1000)
    index.unpin_all("reader")
    assert len(choose_victims(index, "disk", 5000, 0.0)[0]) == 3


def test_a_row_that_a_pending_one_extends_stays() -> None:
    """Or the new one would hang in the air."""
    first, second = chain(STORY, 10, 20)
    index = index_of(first)
    index.books["disk"].reserve(second, 1000)
    assert choose_victims(index, "disk", 1, 0.0) == ((), 0)
    index.books["disk"].unreserve(second, 1000)
    assert choose_victims(index, "disk", 1, 0.0) == ((first.key,), 1000)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"hits": 3}, {"hits": 0}),
        ({"used_at": 50_000.0}, {"used_at": 0.0}),
        ({"prefill_seconds": 2.0}, {"prefill_seconds": 1.0}),
        ({"nbytes": 500}, {"nbytes": 5000}),
    ],
)
def test_what_is_worth_less_for_its_bytes_goes_first(better: dict[str, Any], worse: dict[str, Any]) -> None:
    """By hits, recency, prefill time and size."""

    def worth(facts: dict[str, Any]) -> float:
        row = meta(STORY, 0, 10, prefill_seconds=facts.get("prefill_seconds", 1.0))
        return score(row, facts.get("nbytes", 1000), facts.get("hits", 0), facts.get("used_at", 0.0), 60_000.0)

    assert worth(better) > worth(worse)


def test_worth_is_halved_by_each_half_life() -> None:
    """And does not grow for a last use that is still to come; nor is it all the same after years."""
    row = meta(STORY, 0, 10)
    now, later, last = (score(row, 1, 0, 100.0, 100.0 + half_lives * HALF_LIFE) for half_lives in (0, 1, 1e5))
    assert later == pytest.approx(now - 1)
    assert last == pytest.approx(now - 1e5)
    assert score(row, 1, 0, 100.0, 0.0) == now


def test_what_is_of_no_use_goes_before_everything_else() -> None:
    """Rows of another build, and those that nothing can reach, however often they were hit."""
    good, stale = meta(STORY, 0, 10), meta(STORY[50:], 0, 10, build="b0")
    orphan = meta(STORY[20:], 10, 20)
    index = index_of(good)
    for row in (stale, orphan):
        index.add("disk", stored(row, hits=1000, used_at=1e6))
    index.books["disk"].reserve(meta(STORY, 10, 20), 1000)
    victims, _ = choose_victims(index, "disk", 2000, 1e6)
    assert set(victims) == {stale.key, orphan.key}


@pytest.mark.parametrize("build", ["b1", ""])
def test_the_build_that_saves_rows_of_a_model_is_the_one_that_runs_it(build: str) -> None:
    """Of a tenant's too, and from its first save on; a save without a build changes nothing."""
    tenant = Identity(b"t" * 32, 4, b"c" * 32)
    stale, good = meta(STORY, 0, 10, build="b0", identity=tenant), meta(STORY, 0, 10, build="b0")
    index = index_of(good)
    index.add("disk", stored(stale, hits=1000, used_at=1e6))
    row = meta(STORY[1:], 0, 10, build=build, identity=tenant)
    answer = Reservations(index).reserve(row, "disk", QUOTA - 1000, 1e6)
    assert isinstance(answer, Reserved)
    assert answer.victims == ((stale if build else good).key,)


def test_a_row_is_refused_for_a_reason() -> None:
    """Each is reported as what it is."""
    first, second, third = chain(STORY, 10, 20, 30)
    index = index_of(first)
    reservations = Reservations(index)

    def refusal(row: RowMeta, tier: str = "disk", nbytes: int = 1000) -> str:
        answer = reservations.reserve(row, tier, nbytes, 0.0)
        assert isinstance(answer, Refused)
        return answer.reason

    assert refusal(first) == "duplicate"
    assert refusal(second, "gone") == "no_tier"
    assert refusal(third) == "no_parent"
    assert refusal(second, nbytes=QUOTA + 1) == "too_large"
    index.pin([first.key], "reader")
    assert refusal(meta([9, 9], 0, 2), nbytes=QUOTA) == "no_room"
    assert isinstance(reservations.reserve(second, "disk", 1000, 0.0), Reserved)
    assert refusal(second) == "duplicate"
    assert reservations.end_of(second.key) == 20


def test_a_failed_save_takes_those_that_go_on_from_it_along() -> None:
    """A tier never holds what hangs in the air."""
    first, second, third = chain(STORY, 10, 20, 30)
    index = index_of()
    reservations = Reservations(index)
    numbers = []
    for row in (first, second, third):
        answer = reservations.reserve(row, "disk", 1000, 0.0)
        assert isinstance(answer, Reserved)
        numbers.append(answer.id)
    assert reservations.release(numbers[1]) == [second.key, third.key]
    assert [reservations.stands(number) for number in numbers] == [True, False, False]
    assert index.books["disk"].reserved == 1000
    assert reservations.release(numbers[1]) == []


def test_what_a_row_takes_is_never_underestimated() -> None:
    """Or the tier would refuse what the cache has reserved."""
    row = meta(STORY, 0, 100, payload_bytes=5000)
    assert row_bytes(row) == 5000 + 400 + OVERHEAD


class Life(RuleBasedStateMachine):
    """Saves, hits, failures and evictions in any order, by the rules that the actor follows."""

    open = Bundle("open")

    def __init__(self) -> None:
        super().__init__()
        self.index = index_of(quota=10_000)
        self.reservations = Reservations(self.index)
        self.now = 0.0
        self.pinned: dict[int, list[bytes]] = {}
        self.holders = itertools.count()
        self.written = 0  # bytes that the tier would hold

    @rule(target=open, letters=st.lists(st.integers(0, 1), min_size=1, max_size=5), length=st.integers(1, 3),
          nbytes=st.integers(1, 4000))  # fmt: skip
    def save(self, letters: list[int], length: int, nbytes: int) -> tuple[int, RowMeta, int] | None:
        self.now += 1
        start = max(0, len(letters) - length)
        row = meta(letters, start, len(letters))
        answer = self.reservations.reserve(row, "disk", nbytes, self.now)
        if isinstance(answer, Refused):
            return None
        for key in answer.victims:
            assert all(key not in keys for keys in self.pinned.values())
        self.reservations.confirm_removed("disk", answer.victims)
        return answer.id, row, nbytes

    @rule(saved=consumes(open), share=st.integers(1, 10))
    def arrive(self, saved: tuple[int, RowMeta, int] | None, share: int) -> None:
        if saved is None or not self.reservations.stands(saved[0]):
            return
        before = self.index.get(saved[1].parent)
        if saved[1].start and (before is None or not before.copies):  # the tier stores parents first
            self.reservations.release(saved[0])
        else:
            self.reservations.settle(saved[0])
            self.index.add("disk", stored(saved[1], max(1, saved[2] * share // 10), used_at=self.now))

    @rule(saved=consumes(open))
    def fail(self, saved: tuple[int, RowMeta, int] | None) -> None:
        if saved is not None:
            self.reservations.release(saved[0])

    @rule(place=st.integers(0, 20))
    def pin(self, place: int) -> None:
        rows = list(self.index.rows())
        if rows:
            holder = next(self.holders)
            self.pinned[holder] = [rows[place % len(rows)].key]
            self.index.pin(self.pinned[holder], holder)
            self.index.touch(self.pinned[holder], self.now)

    @rule(place=st.integers(0, 20))
    def unpin(self, place: int) -> None:
        if self.pinned:
            holder = list(self.pinned)[place % len(self.pinned)]
            self.index.unpin_all(holder)
            del self.pinned[holder]

    @rule(nbytes=st.integers(1, 5000))
    def make_room(self, nbytes: int) -> None:
        for tier, keys in evict_bytes(self.index, ["disk"], nbytes, self.now):
            self.reservations.remove(tier, keys)
            self.reservations.confirm_removed(tier, keys)

    @rule()
    def restart_tier(self) -> None:
        self.reservations.release_tier("disk")
        self.index.add_tier("disk", "disk", 10_000)

    @invariant()
    def the_books_are_right(self) -> None:
        book = self.index.books["disk"]
        rows = [row for row in self.index.rows() if "disk" in row.copies]
        assert book.stored == sum(row.copies["disk"].nbytes for row in rows)
        assert book.stored + book.reserved <= book.quota
        metas = [*[row.copies["disk"].meta for row in rows], *book.pending.values()]
        parents = Counter(one.parent for one in metas)
        leaves = {row.key for row in rows if row.key not in parents and not self.index.is_pinned(row.key)}
        assert sorted(book.leaves.oldest()) == sorted(leaves)
        assert all(book.links.siblings(one) == parents[one.parent] for one in metas)

    @invariant()
    def everything_hangs_on_something(self) -> None:
        assert not [
            row for row in self.index.rows() if not self.index.books["disk"].has_parent(row.copies["disk"].meta)
        ]

    @invariant()
    def what_is_pinned_is_there(self) -> None:
        for keys in self.pinned.values():
            for key in keys:
                row = self.index.get(key)
                assert row is None or self.index.is_pinned(key)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
