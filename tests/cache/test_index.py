"""The index: what it counts is what there is, and what goes leaves no trace."""

from __future__ import annotations

from collections import Counter

import pytest
from helpers.rows import chain, meta, stored
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.cache.index import Index
from erllama_py.tiers.messages import RowMeta

STORY = list(range(100))
TIERS = ("ram", "disk")


def index_of(*rows: RowMeta, tier: str = "disk") -> Index:
    index = Index()
    index.add_tier("ram", "ram", 1 << 40)
    index.add_tier("disk", "disk", 1 << 40)
    for row in rows:
        index.add(tier, stored(row))
    return index


def oldest(index: Index, tier: str = "disk") -> list[bytes]:
    return list(index.books[tier].leaves.oldest())


# Rows of short stories over two letters: many share keys, beginnings and ends.
ROWS = st.lists(st.integers(0, 1), min_size=1, max_size=4).flatmap(
    lambda letters: st.integers(0, len(letters) - 1).map(lambda start: meta(letters, start, len(letters)))
)
MOVES = st.lists(
    st.tuples(st.sampled_from(["add", "drop", "reserve", "unreserve"]), st.sampled_from(TIERS), ROWS), max_size=30
)


def play(index: Index, moves: list[tuple[str, str, RowMeta]]) -> None:
    """Do each step where it makes sense; rows come and go in any order."""
    for second, (move, tier, row) in enumerate(moves):
        known = index.get(row.key)
        coming = None if known is None else known.reserved.get(tier)
        if move == "add":
            index.add(tier, stored(row, 1000 + second, used_at=float(-second)))
        elif move == "drop":
            index.drop(tier, row.key)
        elif move == "reserve" and coming is None:
            index.books[tier].reserve(row, 10)
        elif move == "unreserve" and coming is not None:
            index.books[tier].unreserve(coming, 10)


@pytest.mark.slow
@given(MOVES)
def test_the_books_of_each_tier_are_sums_over_its_rows(moves: list[tuple[str, str, RowMeta]]) -> None:
    """Bytes, leaves and which row extends which, in any order, children before parents too."""
    index = index_of()
    play(index, moves)
    everything = [row for row in map(index.get, {row.key for _, _, row in moves}) if row is not None]
    for tier in TIERS:
        book = index.books[tier]
        held = {row.key: row.copies[tier] for row in index.rows() if tier in row.copies}
        coming = [row.reserved[tier] for row in everything if tier in row.reserved]
        metas = [*(copy.meta for copy in held.values()), *coming]
        places = Counter((one.parent, one.start) for one in metas)
        extended = {key for key, copy in held.items() if (key, copy.meta.end) in places}
        assert book.stored == sum(copy.nbytes for copy in held.values()) == book.used()
        assert book.reserved == 10 * len(coming)
        assert all(book.links.siblings(one) == places[one.parent, one.start] for one in metas)
        assert len(book) == len(metas)
        assert set(oldest(index, tier)) == held.keys() - extended - book.pending.keys()
        times = [row.used_at for row in map(index.get, oldest(index, tier)) if row is not None]
        assert times == sorted(times)


@pytest.mark.slow
@given(MOVES)
def test_tiers_that_go_leave_no_trace(moves: list[tuple[str, str, RowMeta]]) -> None:
    """One takes nothing of the other's along; after both, nothing is left."""
    index, alone = index_of(), index_of()
    play(index, moves)
    play(alone, [(move, tier, row) for move, tier, row in moves if tier == "disk"])
    index.remove_tier("ram")

    def disk(of: Index) -> dict[bytes, RowMeta]:
        return {row.key: row.copies["disk"].meta for row in of.rows() if "disk" in row.copies}

    assert disk(index) == disk(alone)
    assert all(set(row.copies) | set(row.reserved) <= {"disk"} for row in index.rows())
    index.remove_tier("disk")
    assert (len(index), list(index.books), list(index.rows())) == (0, [], [])


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.lists(st.sampled_from([b"a", b"b"]), max_size=3))))
def test_pins_are_counted_by_holder(moves: list[tuple[int, bool, list[bytes]]]) -> None:
    """A row is free when every holder has unpinned it, and no holder can unpin for another."""
    index, model = index_of(), dict[int, list[bytes]]()
    for holder, takes, keys in moves:
        if takes:
            index.pin(keys, holder)
            model.setdefault(holder, []).extend(keys)
        else:
            index.unpin_all(holder)
            model.pop(holder, None)
        for key in (b"a", b"b"):
            assert index.is_pinned(key) == any(key in held for held in model.values())


def test_a_row_that_is_reported_twice_keeps_what_is_known_of_it() -> None:
    """A tier that opens may tell of a row that was saved meanwhile."""
    first, second = chain(STORY, 10, 20)
    index = index_of(first, second)
    index.pin([second.key], "reader")
    index.touch([second.key], 50.0)
    index.add("disk", stored(second, 1200))
    row = index.get(second.key)
    assert row is not None
    assert (row.hits, row.used_at, index.is_pinned(second.key)) == (1, 50.0, True)
    assert index.books["disk"].used() == 2200


def test_a_pin_outlives_a_restart_of_the_tier() -> None:
    """The reader does not know of it, and its rows come back."""
    (row,) = chain(STORY, 10)
    index = index_of(row)
    index.pin([row.key], "reader")
    index.add_tier("disk", "disk", 1 << 40)
    index.add("disk", stored(row))
    assert index.is_pinned(row.key)


def test_rows_that_are_reported_in_no_order_are_in_order() -> None:
    """A directory is read by file name; the least recently used row goes first all the same."""
    rows = [meta([number], 0, 1) for number in range(10)]
    index = index_of()
    for number in (3, 9, 0, 5, 1, 8, 2, 7, 4, 6):
        index.add("disk", stored(rows[number], used_at=float(number)))
    assert oldest(index) == [row.key for row in rows]
    index.touch([rows[0].key], 100.0)
    assert oldest(index)[-1] == rows[0].key


def test_a_parent_is_as_old_as_its_own_last_use() -> None:
    """Not as what went on from it: it may serve other chats."""
    shared, turn = chain(STORY, 10, 20)
    other = meta([9, 9], 0, 2)
    index = index_of(shared, turn, other)
    index.touch([other.key], 10.0)
    index.touch([shared.key], 20.0)
    index.drop("disk", turn.key)
    assert oldest(index) == [other.key, shared.key]


def test_a_loss_is_remembered_until_the_row_is_back() -> None:
    """And where it was."""
    first, second = chain(STORY, 10, 20)
    index = index_of(first, second)
    index.drop("disk", second.key, "evicted")
    assert (list(index.losses.ends_after(first.key)), index.losses.why(second.key)) == ([20], "evicted")
    index.add("ram", stored(second))
    assert (list(index.losses.ends_after(first.key)), index.losses.why(second.key)) == ([], None)


@pytest.mark.slow
@given(MOVES)
def test_a_book_from_which_everything_has_gone_is_empty(moves: list[tuple[str, str, RowMeta]]) -> None:
    """Row by row, in any order: nothing of them is left in it."""
    index = index_of()
    play(index, moves)
    for book in index.books.values():
        for key in sorted(book.rows):
            book.drop(key)
        for row in list(book.pending.values()):
            book.unreserve(row, 10)
        assert (len(book), book.used(), book.reserved, len(book.leaves)) == (0, 0, 0, 0)
        assert (bool(book.links), book._identities) == (False, {})
