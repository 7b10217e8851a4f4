"""Rows that are removed on request: with all that extend them, never one that is read, and never a chain's middle."""

from __future__ import annotations

import pytest
from helpers.filled_directory import IDENTITY
from helpers.rows import chain, meta, stored
from hypothesis import given
from hypothesis import strategies as st

import erllama_py as erllama
from erllama_py.cache.chosen import chosen
from erllama_py.cache.index import Index
from erllama_py.tiers.messages import RowMeta

STORY = list(range(4000))


def index_of(*rows: RowMeta) -> Index:
    index = Index()
    index.add_tier("disk", "disk", 1 << 40)
    for row in rows:
        index.add("disk", stored(row))
    return index


def removed(index: Index, *keys: bytes) -> list[bytes]:
    """The keys that are chosen, each portion taken out before the next."""
    gone: list[bytes] = []
    for tier, portion in chosen(index, "disk", keys):
        gone += portion
        for key in portion:
            index.drop(tier, key)
    return gone


def test_a_row_goes_after_all_that_extend_it() -> None:
    """Those before it, and other branches, stay."""
    rows = chain(STORY, 10, 20, 30, 40)
    branch = meta([*STORY[:10], 9999], 10, 11)
    index = index_of(*rows, branch)
    assert removed(index, rows[1].key) == [rows[3].key, rows[2].key, rows[1].key]
    assert set(index.books["disk"].rows) == {rows[0].key, branch.key}


def test_a_long_chain_goes_in_portions() -> None:
    """The event loop turns between them."""
    rows = chain(STORY, *range(4, 4000, 4))
    index = index_of(*rows)
    portions = [portion for _, portion in chosen(index, "disk", [rows[0].key])]
    assert len(portions) > 3
    assert max(map(len, portions)) <= 128
    assert [key for portion in portions for key in portion] == [row.key for row in reversed(rows)]


def test_what_is_read_or_being_saved_stays_with_all_before_it() -> None:
    """Its chain is of use as long as it is."""
    rows = chain(STORY, 10, 20, 30, 40)
    index = index_of(*rows)
    index.pin([rows[2].key], "reader")
    assert removed(index, rows[0].key) == [rows[3].key]
    pending = index_of(*rows[:3])
    pending.books["disk"].reserve(rows[3], 1000)
    assert removed(pending, rows[0].key) == []


def test_a_tier_that_is_gone_has_nothing_to_remove() -> None:
    """Also where it goes in the middle."""
    index = index_of(*chain(STORY, 10))
    assert list(chosen(index, "other", [bytes(32)])) == []


@given(st.lists(st.tuples(st.integers(0, 11), st.booleans()), max_size=8), st.sets(st.integers(0, 11)))
def test_no_row_is_left_without_its_parent(wanted: list[tuple[int, bool]], pinned: set[int]) -> None:
    """Whatever is asked for, and whatever is read meanwhile."""
    rows = [*chain(STORY, 10, 20, 30, 40, 50, 60), *chain([7, *STORY], 10, 20, 30, 40, 50, 60)]
    index = index_of(*rows)
    index.pin([rows[number].key for number in pinned], "reader")
    gone = removed(index, *(rows[number].key for number, _ in wanted))
    assert len(gone) == len(set(gone))
    book = index.books["disk"]
    assert all(book.has_parent(copy.meta) for copy in book.rows.values())
    assert {rows[number].key for number in pinned} <= set(book.rows)


@pytest.mark.anyio
async def test_a_running_cache_removes_what_it_is_told(tmp_path: object) -> None:
    """From its tier too; other tiers keep theirs. What a look-up holds stays."""
    tokens = list(range(30))
    async with erllama.Runtime(tiers={"d": erllama.DiskTier(str(tmp_path))}) as runtime:
        cache = runtime.cache
        keys = []
        for tier in ("d", "ram"):
            for end in (10, 20, 30):
                key = await cache.put(IDENTITY, tokens[:end], end - 10, b"x" * 100, tier=tier)
                keys.append(key)
        await cache.flush()
        removed = await cache.remove([keys[1]], "d")
        assert (removed.rows, removed.left) == (2, 0)
        assert removed.nbytes > 0
        assert sorted(row.end for row in await cache.rows() if row.tier == "d") == [10]
        assert sorted(row.end for row in await cache.rows() if row.tier == "ram") == [10, 20, 30]
        assert await cache.remove(["00" * 32], "d") == erllama.RowsRemoved(rows=0, nbytes=0, left=0)
        for wrong in ("ab" * 32, 5, ["xyz"]):
            with pytest.raises(erllama.RequestError):
                await cache.remove(wrong, "d")  # type: ignore[arg-type]  # as code without type checks does
        with pytest.raises(erllama.TierNotFound, match=r"running: d, ram"):
            await cache.remove([keys[0]], "other")
