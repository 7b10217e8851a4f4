"""Many rows that go at once: in portions, so that no message waits for all of them, and from what is there by then."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from helpers.rows import chain, meta, stored

from erllama_py.cache.eviction import OWN_BYTES, PORTION, Portions, evict_bytes, orphans, surplus
from erllama_py.cache.index import Index
from erllama_py.cache.reservation import Refused, Reservations, Reserved
from erllama_py.tiers.messages import RowMeta

STORY = list(range(100))
MANY = 10 * PORTION
QUOTA = 1 << 40


def index_of(*rows: RowMeta, tier: str = "disk", quota: int = QUOTA) -> Index:
    index = Index()
    index.add_tier("disk", "disk", quota)
    index.add_tier("ram", "ram", quota)
    for row in rows:
        index.add(tier, stored(row))
    return index


def singles(count: int, first: int = 0) -> list[RowMeta]:
    """Rows of 1,000 bytes that stand alone."""
    return [meta([number], 0, 1) for number in range(first, first + count)]


def taken(index: Index, portions: Portions) -> dict[str, int]:
    """Do it portion by portion; how many rows each tier gave. None may be larger than a portion."""
    given: Counter[str] = Counter()
    for tier, keys in portions:
        assert len(keys) <= PORTION
        before = len(index)
        for key in keys:
            index.drop(tier, key)
        assert len(index) == before - len(keys)
        given[tier] += len(keys)
    return dict(given)


def test_several_tiers_give_by_their_share() -> None:
    """However many portions that takes; and one that has too little is helped out by the next."""
    index = index_of(*singles(MANY))
    for row in singles(MANY // 2, MANY):
        index.add("ram", stored(row))
    assert taken(index, evict_bytes(index, ["disk", "ram"], 1000 * MANY, 0.0)) == {
        "disk": -(-MANY * 2 // 3),
        "ram": MANY // 3,
    }
    index.pin([row.key for row in index.rows() if "disk" in row.copies], "reader")
    left = len(index.books["ram"])
    assert taken(index, evict_bytes(index, ["disk", "ram"], 1000 * left, 0.0)) == {"ram": left}
    index.unpin_all("reader")
    assert sum(taken(index, evict_bytes(index, ["disk", "ram"], QUOTA, 0.0)).values()) == MANY * 3 // 2 - MANY - left
    assert taken(index, evict_bytes(index, [], 100, 0.0)) == {}


def test_a_chain_that_is_longer_than_a_portion_goes_from_its_end() -> None:
    """No row is ever without the one that it extends."""
    rows = chain(list(range(PORTION + 50)), *range(1, PORTION + 51))
    index, ends = index_of(*rows), {row.key: row.end for row in rows}
    for _, keys in evict_bytes(index, ["disk"], QUOTA, 0.0):
        for key in keys:
            assert not [*index.books["disk"].links.children(key, ends[key])]
            index.drop("disk", key)
    assert len(index) == 0


def test_what_happens_between_two_portions_counts() -> None:
    """A row that is pinned by then stays; a tier that is gone gives nothing more."""
    rows = singles(PORTION + 10)
    index = index_of(*rows)
    portions = evict_bytes(index, ["disk"], QUOTA, 0.0)
    for key in next(portions)[1]:
        index.drop("disk", key)
    first, second, *_ = [row.key for row in index.rows()]
    index.pin([first], "reader")
    assert first not in next(portions)[1]
    index.remove_tier("disk")
    assert list(portions) == []
    assert second not in index.books["ram"].rows


def test_a_tier_with_a_smaller_quota_gives_up_what_is_too_much() -> None:
    """And nothing that was removed otherwise by then. What a directory has of its own counts."""
    index = index_of(*singles(MANY), quota=1000 * PORTION + OWN_BYTES)
    assert taken(index, surplus(index, "disk", 0.0)) == {"disk": MANY - PORTION}
    assert taken(index, surplus(index, "disk", 0.0)) == {}
    for row in singles(3 * PORTION, MANY):
        index.add("disk", stored(row))
    portions = surplus(index, "disk", 0.0)
    for key in next(portions)[1]:
        index.drop("disk", key)
    for other in list(index.rows())[:PORTION]:
        index.drop("disk", other.key)
    assert taken(index, portions) == {"disk": PORTION}


def test_orphans_are_what_hangs_on_nothing() -> None:
    """With all that extends them, in whatever order the index has them; unless they are pinned."""
    first, *rest = chain(STORY, *range(10, 100, 10))
    for order in (rest, rest[::-1]):
        index = index_of(first, *order)
        assert taken(index, orphans(index, "disk")) == {"disk": 0}
        index.drop("disk", first.key, "bad")
        index.pin([rest[3].key], "reader")
        assert taken(index, orphans(index, "disk")) == {"disk": 3}
        index.unpin_all("reader")
        assert taken(index, orphans(index, "disk")) == {"disk": len(rest) - 3}
    assert taken(index, orphans(index, "ram")) == {}


def test_many_rows_are_looked_at_in_portions_for_orphans() -> None:
    """Also where none is one: each portion lets the loop turn."""
    index = index_of(*singles(MANY))
    assert [keys for _, keys in orphans(index, "disk")] == [()] * (MANY // PORTION)


@pytest.mark.parametrize("alike", [True, False])
def test_a_book_that_is_not_used_is_freed_in_portions(alike: bool) -> None:
    """Whether its rows extend one key or many."""
    index = index_of(*(singles(MANY) if alike else [meta([number, 1], 1, 2) for number in range(MANY)]))
    book = index.remove_tier("disk")
    assert book is not None
    assert len(index) == 0
    seen = [len(book), *[len(book) for _ in book.shed(PORTION)]]
    assert max(before - after for before, after in pairwise(seen)) == PORTION
    assert not book.rows
    assert not book.links


def test_a_row_that_needs_the_room_of_too_many_is_refused_and_makes_room() -> None:
    """The next one goes in: no save waits for thousands of rows to be chosen, and none is refused for ever."""
    index = index_of(*singles(3 * PORTION), quota=3000 * PORTION)
    reservations = Reservations(index)
    large = meta([5, 5], 0, 2)
    for _ in range(2):
        answer = reservations.reserve(large, "disk", 2500 * PORTION, 0.0)
        assert isinstance(answer, Refused)
        assert (answer.reason, len(answer.victims)) == ("no_room", PORTION)
        reservations.remove("disk", answer.victims)
        reservations.confirm_removed("disk", answer.victims)
    answer = reservations.reserve(large, "disk", 2500 * PORTION, 0.0)
    assert isinstance(answer, Reserved)
    assert len(answer.victims) == PORTION // 2
