"""The cache's actor by itself, beside a tier that is played here: what it tells it, and when."""

from __future__ import annotations

import asyncio
import gc
import warnings
from itertools import pairwise

import pytest
from helpers.cache_bench import running, used
from helpers.checkpoints import turns
from helpers.rows import chain, meta, stored
from helpers.runtime import until

from erllama_py.cache.eviction import OWN_BYTES, PORTION
from erllama_py.cache.messages import EvictBytes, Gc
from erllama_py.tiers.messages import MakeRoom, Removed, RowLost, RowStored, TierRows, TierUp

pytestmark = pytest.mark.anyio

MANY = 5 * PORTION
STORY = list(range(100))


# --- the loop turns ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["evict", "gc", "shrink"])
async def test_the_loop_turns_while_many_rows_go(how: str) -> None:
    """Between two turns no more of them leave the index than a portion."""
    async with running() as bench:
        rows = [meta([number, 1], int(how == "gc"), 2) for number in range(MANY)]
        bench.tier(rows, 1 if how == "shrink" else 1 << 40)
        seen = [len(rows)]
        message = Gc() if how == "gc" else EvictBytes(1 << 40, ("disk",))
        reply = None if how == "shrink" else bench.ref.begin_call(message)
        await until(lambda: len(bench.actor.index) > 0)
        while len(bench.actor.index):
            seen.append(len(bench.actor.index))
            await asyncio.sleep(0)
        assert max(before - after for before, after in pairwise(seen)) <= PORTION
        assert len(seen) > MANY // PORTION
        if reply is not None:
            assert await reply.wait() == 1000 * MANY
        counters = await bench.settled()
        assert counters["evicted.disk"] == MANY
        assert bench.actor.index.books["disk"].used() == 0


@pytest.mark.slow
@pytest.mark.parametrize("message", [EvictBytes(1 << 40, ("disk",)), Gc()])
async def test_a_caller_that_stops_waiting_for_an_eviction_leaves_nothing_half_done(message: EvictBytes | Gc) -> None:
    """At any moment: what is out of the index by then goes, the rest stays, and no coroutine is left un-awaited."""
    for after in range(2 * MANY // PORTION + 4):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            async with running() as bench:
                bench.tier([meta([number, 1], int(isinstance(message, Gc)), 2) for number in range(MANY)])
                await bench.settled()
                reply = bench.ref.begin_call(message)
                await turns(after)
                reply.abandon()
                await bench.settled()
                book = bench.actor.index.books["disk"]
                assert len(book.rows) + len(bench.removed()) == MANY
                assert book.removing == {}
            gc.collect()
        assert [str(one.message) for one in caught] == []


async def test_a_tier_that_goes_is_forgotten_at_once_and_freed_bit_by_bit() -> None:
    """Nothing of it is found any more; its memory is freed while the loop turns."""
    async with running() as bench:
        bench.tier([meta([number], 0, 1) for number in range(MANY)])
        await bench.settled()
        book = bench.actor.index.books["disk"]
        bench.tell(TierUp("disk", "disk", 1 << 40))
        await until(lambda: bench.actor.index.books.get("disk") is not book)
        assert len(bench.actor.index) == 0
        seen = [MANY]
        while book.rows:
            await asyncio.sleep(0)
            seen.append(len(book.rows))
        assert max(before - after for before, after in pairwise(seen)) <= PORTION


# --- rows that an engine refuses -----------------------------------------------------------------------------


async def test_a_refused_row_is_hidden_and_not_removed() -> None:
    """Whoever reads it may take it; no look-up finds it any more, and its bytes are counted."""
    (row,) = chain(STORY, 10)
    async with running() as bench:
        bench.tier([row])
        for number in (1, 2):
            assert (await bench.find(number, STORY[:10]).wait()).length == 10
        bench.tell(RowLost("disk", row.key, "refused"), used(1))
        counters = await bench.settled()
        assert counters["bad.refused"] == 1
        hit = await bench.find(3, STORY[:10]).wait()
        assert (hit.length, hit.miss.reason) == (0, "bad")
        bench.tell(used(3), used(2))
        counters = await bench.settled()
        assert (bench.removed(), "evicted.disk" in counters) == ([], False)
        assert bench.actor.index.books["disk"].used() == 1000


@pytest.mark.parametrize("message", [EvictBytes(1, ("disk",)), Gc()])
async def test_a_refused_row_is_the_first_that_goes_for_room(message: EvictBytes | Gc) -> None:
    """Before older rows that are sound; and with whatever else is of no use."""
    old, refused = meta([1], 0, 1), meta([2], 0, 1)
    async with running() as bench:
        bench.tier([old, refused])
        bench.tell(RowLost("disk", refused.key, "refused"))
        await bench.settled()
        assert await bench.ref.call(message) == 1000
        assert bench.removed() == [refused.key]
        assert bench.actor.index.books["disk"].used() == 1000


async def test_many_refused_rows_go_in_portions_but_for_those_that_are_saved_again() -> None:
    """A collection finds all of them; what takes the place of one is not removed with it."""
    rows = [meta([number], 0, 1) for number in range(3 * PORTION)]
    async with running() as bench:
        bench.tier(rows)
        bench.tell(*(RowLost("disk", row.key, "refused") for row in rows))
        await bench.settled()
        await bench.save_row(rows[200])
        assert await bench.ref.call(Gc()) == 1000 * (len(rows) - 1)
        assert set(bench.removed()) == {row.key for row in rows} - {rows[200].key}


async def test_a_refused_row_that_is_reported_again_is_tried_again() -> None:
    """By a tier that was started anew: what refused it may have been mended."""
    (row,) = chain(STORY, 10)
    async with running() as bench:
        bench.tier([row])
        bench.tell(RowLost("disk", row.key, "refused"))
        bench.tell(TierRows("disk", (stored(row),), 1, 1))
        assert (await bench.find(1, STORY[:10]).wait()).length == 10
        assert bench.actor.index.books["disk"].used() == 1000


async def test_a_refused_row_that_is_saved_again_stays() -> None:
    """The bytes that were refused are replaced; the new ones are not removed when the last reader has gone."""
    (row,) = chain(STORY, 10)
    async with running() as bench:
        bench.tier([row])
        assert (await bench.find(1, STORY[:10]).wait()).length == 10
        bench.tell(RowLost("disk", row.key, "refused"))
        (write,) = await bench.save_row(row)
        bench.tell(used(1))
        await bench.settled()
        bench.tell(RowStored("disk", write.reservation, stored(row)), used(1))
        await bench.settled()
        assert bench.removed() == []
        assert (await bench.find(2, STORY[:10]).wait()).length == 10
        assert bench.actor.index.books["disk"].used() == 1000


# --- a tier without room -------------------------------------------------------------------------------------


async def test_a_tier_without_room_is_told_which_rows_may_go() -> None:
    """Its quota is not what keeps a row out: there are bytes that the cache does not know, or its disk is small."""
    async with running() as bench:
        bench.tier([meta([number], 0, 1) for number in range(40)])
        (put,) = await bench.save(100)
        assert bench.removed() == []
        gone = await bench.ref.call(MakeRoom(put.reservation, 3000))
        assert len(gone) == 3
        book = bench.actor.index.books["disk"]
        assert (len(book.rows), len(book.removing), book.capacity) == (37, 3, 40_000)
        bench.tell(Removed("disk", gone, ok=True), RowStored("disk", put.reservation, stored(put.row.meta)))
        counters = await bench.settled()
        assert (counters["evicted.disk"], counters["saves.cold"]) == (3, 1)
        assert await bench.ref.call(MakeRoom(put.reservation, 3000)) == ()  # it is stored


async def test_a_save_that_too_many_rows_would_have_to_go_for_makes_room_for_the_next() -> None:
    """It is dropped for want of room, and with it goes as much as can at once."""
    async with running() as bench:
        bench.tier([meta([number], 0, 1) for number in range(MANY)], 1000 * MANY + OWN_BYTES)
        nbytes = 1000 * PORTION * 3 // 2
        assert await bench.save(MANY, nbytes) == []
        assert len(bench.removed()) == PORTION
        counters = await bench.settled()
        assert (counters["saves.dropped.no_room"], counters["evicted.disk"]) == (1, PORTION)
        assert len(await bench.save(MANY, nbytes)) == 1
        assert PORTION < len(bench.removed()) < 2 * PORTION
