"""The cache's actor and look-ups: those that wait are answered, those that are gone hold nothing, hits count."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from helpers.cache_bench import Bench, running, used
from helpers.rows import chain, meta, stored

from erllama_py.cache.messages import Located, Used, UsedKind
from erllama_py.tiers.messages import Introduce, PutFailed, Removed, RowMeta, RowStored, TierRows, TierUp, Touch

pytestmark = pytest.mark.anyio

STORY = list(range(30))
FIRST, SECOND = chain(STORY, 10, 20)


async def answer(reply: Any) -> Any:
    """The answer of a look-up that has no reason to wait its minute."""
    with anyio.fail_after(10):
        return await reply.wait()


def hit(number: int, rows: list[tuple[RowMeta, str, int]], kind: UsedKind = "partial") -> Used:
    located = tuple(Located(row, tier, nbytes) for row, tier, nbytes in rows)
    return Used(holder="m", request_id=number, kind=kind, rows=located, seconds=0.5)


# --- look-ups that wait --------------------------------------------------------------------------------------


async def test_a_look_up_that_waits_for_a_row_is_answered_when_it_is_stored() -> None:
    """At once, with it."""
    async with running() as bench:
        bench.tier([])
        (write,) = await bench.save_row(FIRST)
        reply = bench.find(1, STORY, FIRST.key)
        await bench.settled()
        assert not reply.settled
        bench.tell(RowStored("disk", write.reservation, stored(FIRST)))
        assert (await answer(reply)).length == 10


async def test_a_look_up_that_waits_for_a_row_is_answered_when_the_row_before_it_fails() -> None:
    """It will not come either."""
    async with running() as bench:
        bench.tier([])
        first, *_ = await bench.save_row(FIRST)
        await bench.save_row(SECOND)
        reply = bench.find(1, STORY, SECOND.key)
        await bench.settled()
        assert not reply.settled
        bench.tell(PutFailed("disk", first.reservation, "TierFailed"))
        assert (await answer(reply)).length == 0


async def test_a_look_up_that_is_ended_while_it_waits_gets_no_pins() -> None:
    """Also before its cancelled task has run: the row that it waited for comes with the next message."""
    async with running() as bench:
        bench.tier([])
        (write,) = await bench.save_row(FIRST)
        reply = bench.find(1, STORY, FIRST.key)
        await bench.settled()
        bench.tell(used(1))
        bench.tell(RowStored("disk", write.reservation, stored(FIRST)))
        await bench.settled()
        assert (reply.settled, reply.abandoned) == (False, True)
        assert not bench.actor.index.is_pinned(FIRST.key)


async def test_a_caller_that_left_while_waiting_frees_no_pins_of_a_later_look_up() -> None:
    """A request that is taken up again asks with the same number."""
    async with running() as bench:
        bench.tier([FIRST])
        (write,) = await bench.save_row(SECOND)
        waiting = bench.find(1, STORY, SECOND.key)
        await bench.settled()
        waiting.abandon()
        assert (await answer(bench.find(1, STORY))).length == 10
        bench.tell(RowStored("disk", write.reservation, stored(SECOND)))
        await bench.settled()
        assert bench.actor.index.is_pinned(FIRST.key)
        bench.tell(used(1))
        await bench.settled()
        assert not bench.actor.index.is_pinned(FIRST.key)


# --- what comes of it ----------------------------------------------------------------------------------------


async def count(bench: Bench, *said: Used) -> dict[str, float]:
    """What these reports count, beside the time of the look-up."""
    bench.tell(*said)
    return {name: value for name, value in (await bench.settled()).items() if name != "seconds.walk"}


async def test_a_hit_counts_what_was_put_back_and_where_its_last_row_lay() -> None:
    """Rows, tokens, bytes and seconds."""
    async with running() as bench:
        assert await count(bench, hit(1, [(FIRST, "ram", 700), (SECOND, "disk", 900)])) == {
            "hits.partial": 1, "hits.tier.disk": 1, "restored.rows": 2, "restored.tokens": 20, "restored.bytes": 1600,
            "seconds.restore": 0.5,
        }  # fmt: skip


async def test_a_miss_counts_by_its_reason() -> None:
    """As the look-up had it; what was found and not used could not be read."""
    async with running() as bench:
        bench.tier([FIRST])
        await answer(bench.find(1, [99] * 10))
        await answer(bench.find(2, STORY[:10]))
        counted = await count(bench, used(1), used(2), used(3))
        assert counted == {"misses.diverges": 1, "misses.unreadable": 1, "misses.unanswered": 1}


async def test_a_look_up_that_is_cancelled_is_neither_hit_nor_miss() -> None:
    """Its rows are free."""
    async with running() as bench:
        bench.tier([FIRST])
        await answer(bench.find(1, STORY[:10]))
        assert await count(bench, hit(1, [(FIRST, "disk", 1000)], "cancelled"), hit(2, [], "cancelled")) == {}
        assert not bench.actor.index.is_pinned(FIRST.key)


async def test_a_hit_is_reported_to_the_tier_and_counts_after_a_restart() -> None:
    """Of two rows that differ in nothing else the one that was hit stays."""
    rows = [meta([number], 0, 1) for number in range(2)]
    for used_row in rows:
        async with running() as bench:
            bench.tier(rows)
            await count(bench, hit(1, [(used_row, "disk", 1000)]))
            (touch,) = [message for message in bench.disk.told if isinstance(message, Touch)]
            assert touch == Touch(used_row.key, 1, 0.0)
            hits = {touch.key: touch.hits}
            known = tuple(stored(row, 20_000, hits=hits.get(row.key, 0)) for row in rows)
            bench.tell(TierUp("disk", "disk", 40_000), TierRows("disk", known, 2, 2))
            await bench.save(7)
            assert bench.removed() == [row.key for row in rows if row is not used_row]
            assert (await bench.settled())["evicted.disk"] == 1


async def test_a_row_that_is_stored_counts_its_bytes_and_the_time_of_its_copy() -> None:
    """By reason and by tier."""
    async with running() as bench:
        bench.tier([])
        (write,) = await bench.save_row(FIRST, pack_seconds=0.25)
        bench.tell(RowStored("disk", write.reservation, stored(FIRST, 1234)))
        assert await count(bench) == {"saves.cold": 1, "saves.bytes.disk": 1234, "seconds.pack": 0.25}


async def test_a_tier_that_cannot_say_what_it_removed_is_asked_what_it_has() -> None:
    """No other actor knows."""
    async with running() as bench:
        bench.tier([FIRST])
        await bench.settled()
        assert bench.disk.told == []
        bench.tell(Removed("disk", (FIRST.key,), False))
        await bench.settled()
        assert bench.disk.told == [Introduce()]
