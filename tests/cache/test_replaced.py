"""Which rows a new one takes the place of: those within its span that nobody else needs, whole branches at a time."""

from __future__ import annotations

import pytest
from helpers.cache_bench import Bench, running, used
from helpers.rows import chain, meta, stored
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.cache.index import Index
from erllama_py.cache.messages import RowBytes, Save
from erllama_py.cache.replaced import MOST, OPENING, replaced
from erllama_py.options.model import SaveReason
from erllama_py.tiers.messages import Put, PutFailed, RowMeta, RowStored

STORY = list(range(400))


def index_of(*rows: RowMeta) -> Index:
    index = Index()
    index.add_tier("disk", "disk", 1 << 40)
    for row in rows:
        index.add("disk", stored(row))
    return index


def beside(start: int, length: int, reason: SaveReason, number: int = 0) -> RowMeta:
    """A row that leaves the story at `start`."""
    return meta([*STORY[:start], *[1000 + number] * length], start, start + length, reason=reason)


def test_the_rows_of_turns_before_go_children_first() -> None:
    """What it begins with stays, and so does what extends it."""
    system, *turns = chain(STORY, 100, 150, 200)
    new, after = meta(STORY, 100, 250), meta(STORY, 250, 300)
    index = index_of(system, *turns, new, after)
    assert replaced(index, "disk", new).keys == (turns[1].key, turns[0].key)


def test_a_reply_that_did_not_come_back_goes_along() -> None:
    """With what opened it, and all that was saved while it was generated."""
    system, turn = chain(STORY, 100, 150)
    opening = beside(150, OPENING, "cold")
    tokens = [*STORY[:150], *[1000] * 100]
    reply = [meta(tokens, 150 + OPENING, 200, reason="continued"), meta(tokens, 200, 220, reason="finish")]
    new = meta(STORY, 100, 250)
    gone = replaced(index_of(system, turn, opening, *reply, new), "disk", new).keys
    assert gone == (reply[1].key, reply[0].key, opening.key, turn.key)


@pytest.mark.parametrize("how", ["branch", "pinned", "kept", "pending", "pending child", "refused parent"])
def test_what_others_need_stays(how: str) -> None:
    """And all before it; what comes after it goes."""
    system, first, second = chain(STORY, 100, 150, 200)
    new = meta(STORY, 100, 250)
    index = index_of(system, first, second, new)
    book = index.books["disk"]
    if how == "branch":
        index.add("disk", stored(beside(150, OPENING + 1, "cold")))
    elif how == "pinned":
        index.pin([first.key], "reader")
    elif how == "kept":
        assert book.keep(system.key, 60.0, 0.0)
        assert book.keep(first.key, 60.0, 0.0)
    elif how == "pending":
        book.reserve(first, 1000)
    elif how == "pending child":
        book.reserve(beside(150, 40, "finish"), 1000)
    else:
        index.refuse("disk", system.key)
    assert replaced(index, "disk", new).keys == (() if how == "refused parent" else (second.key,))


def test_a_place_with_many_branches_stays() -> None:
    """A thousand replies beside a path are not looked at, one after the other, for one row."""
    system, turn = chain(STORY, 100, 150)
    new = meta(STORY, 100, 250)
    index = index_of(system, turn, new, *(beside(150, 3, "finish", number) for number in range(MOST + 1)))
    assert replaced(index, "disk", new).keys == ()


def test_a_tier_that_is_gone_has_nothing_to_replace() -> None:
    """It may go while the row is on its way."""
    assert replaced(Index(), "disk", meta(STORY, 100, 250)) == ((), False)


spans = st.tuples(st.integers(0, 30), st.integers(1, 30), st.integers(0, 2), st.sampled_from(["cold", "finish"]))


@given(st.lists(spans, max_size=12), st.integers(0, 20), st.integers(1, 30))
def test_every_row_that_stays_is_reached_as_before(
    some: list[tuple[int, int, int, SaveReason]], start: int, length: int
) -> None:
    """Whatever is there: only what ends within the span goes, and no row that stays loses a row before it."""
    begin = meta(STORY, 0, start) if start else None
    new = meta(STORY, start, start + length)
    rows = [row for row in (begin, new) if row is not None]
    for at, count, number, reason in some:
        tokens = STORY if not number else [*STORY[:at], *[1000 + number] * count]
        rows.append(meta(tokens, at, at + count, reason=reason))
    index = index_of(*rows)
    book = index.books["disk"]
    reachable = {key for key, copy in book.rows.items() if book.is_reachable(copy.meta)}
    gone = replaced(index, "disk", new).keys
    assert new.key not in gone
    assert len(gone) == len(set(gone))
    for key in gone:
        assert book.rows[key].meta.start >= start
        assert not list(book.links.children(key, book.rows[key].meta.end))  # children first
        index.drop("disk", key)
    assert all(book.is_reachable(copy.meta) == (key in reachable) for key, copy in book.rows.items())


async def two_turns(bench: Bench) -> tuple[RowMeta, RowMeta, Put]:
    """The row of a turn, the next one's that is to take its place, and the save of that, under way."""
    system, turn = chain(STORY, 100, 150)
    bench.tier([system, turn])
    new = meta(STORY, 100, 200)
    bench.tell(Save(row=RowBytes(new, memoryview(b"x")), tier="disk", replaces=True))
    await bench.settled()
    (put,) = (message for message in bench.disk.told if isinstance(message, Put))
    return turn, new, put


@pytest.mark.anyio
@pytest.mark.parametrize("stored_it", [True, False])
async def test_rows_go_once_what_takes_their_place_is_stored(stored_it: bool) -> None:
    """Not before, nor where it never is. It is no eviction: a miss there names none."""
    async with running() as bench:
        turn, new, put = await two_turns(bench)
        assert bench.removed() == []
        if stored_it:
            bench.tell(RowStored("disk", put.reservation, stored(new)))
        else:
            bench.tell(PutFailed("disk", put.reservation, "TierFull"))
        counters = await bench.settled()
        assert bench.removed() == [turn.key] * stored_it
        assert counters.get("replaced.disk", 0) == stored_it
        assert "evicted.disk" not in counters
        book = bench.actor.index.books["disk"]
        assert not book.replacing
        assert not book.replaced
        assert bench.actor.index.losses.why(turn.key) is None


@pytest.mark.anyio
async def test_rows_that_the_next_turn_reads_meanwhile_go_once_it_has_read_them() -> None:
    """It was looked up before what takes their place was stored."""
    async with running() as bench:
        turn, new, put = await two_turns(bench)
        await bench.find(1, STORY[:160]).wait()
        bench.tell(RowStored("disk", put.reservation, stored(new)))
        await bench.settled()
        assert bench.removed() == []
        bench.tell(used(1))
        await bench.settled()
        assert bench.removed() == [turn.key]
        assert not bench.actor.index.books["disk"].taking
