"""Clocks that are ahead, that go back, that are of another machine; and what is not in a row by any clock's fault."""

from __future__ import annotations

import pytest
from helpers.cache_bench import Bench, running
from helpers.rows import chain, meta, stored
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.cache.clock import Clock
from erllama_py.cache.eviction import HALF_LIFE, choose_victims, orphans
from erllama_py.cache.index import Index
from erllama_py.cache.messages import EvictBytes, Gc, ListRows
from erllama_py.cache.sane import AHEAD, MOST_HITS, sane
from erllama_py.tiers.messages import RowStored, StoredRow, TierRows, TierUp, Touch

pytestmark = pytest.mark.anyio

DAY = 86_400.0
NOW = 1.8e9
STORY = list(range(100))


class Times:
    """The clock of a machine, and how long it has been up."""

    def __init__(self) -> None:
        self.wall, self.up = NOW, 1000.0

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.up += seconds

    def clock(self) -> Clock:
        return Clock(lambda: self.wall, lambda: self.up)


def test_the_caches_clock_goes_on_evenly() -> None:
    """Whatever is done to the machine's; what it tells others is by theirs."""
    times = Times()
    clock = times.clock()
    times.passes(10)
    assert (clock.now(), clock.unix(clock.now())) == (NOW + 10, NOW + 10)
    for jump in (DAY, -3 * DAY, -NOW):
        times.wall += jump
        assert clock.now() == NOW + 10
        assert clock.unix(NOW + 5) == times.wall - 5


FLOATS = st.floats(allow_nan=True, allow_infinity=True)


@given(FLOATS, st.integers(0, (1 << 64) - 1), st.floats(-1e9, 1e9))
def test_what_is_reported_is_never_still_to_come(used_at: float, hits: int, drift: float) -> None:
    """Nor are there more hits than there can have been; what can be is left as it is."""
    row = stored(meta(STORY, 0, 10), hits=hits, used_at=used_at)
    told, healed = sane(row, NOW, drift)
    assert told.used_at <= NOW
    assert 0 <= told.hits <= MOST_HITS
    assert ("hits" in healed) == (hits > MOST_HITS)
    assert ("times" in healed) == (not used_at - drift <= NOW + AHEAD)
    if used_at - drift <= NOW and not healed:
        assert (told.hits, told.used_at) == (hits, used_at - drift)
    assert sane(told, NOW, 0.0) == (told, ())


async def saved_one_by_one(bench: Bench, times: Times, count: int) -> list[bytes]:
    """Save rows that fill the tier, by the machine's clock; the keys of those that went for them."""
    before = len(bench.removed())
    for number in range(count):
        times.passes(1)
        puts = await bench.save_row(meta([number], 0, 1, payload_bytes=1000))
        row = puts[-1].row.meta
        bench.tell(RowStored("disk", puts[-1].reservation, stored(row, 1000, used_at=times.wall)))
        await bench.settled()
    return bench.removed()[before:]


@pytest.mark.parametrize("jump", [-DAY, DAY, 30 * DAY])
async def test_a_clock_that_is_set_changes_nothing_of_what_goes(jump: float) -> None:
    """Rows of before go before rows of after, as if nobody had set it: no new row goes for the next one."""
    times = Times()
    async with running(times.clock()) as bench:
        old = [meta([1000 + number], 0, 1) for number in range(10)]
        quota = 10 * 1000 + 20_000
        rows = tuple(stored(row, used_at=times.wall) for row in old)
        bench.tell(TierUp("disk", "disk", quota), TierRows("disk", rows, 10, 10))
        await bench.settled()
        times.wall += jump
        times.passes(HALF_LIFE)
        gone = await saved_one_by_one(bench, times, 12)
        assert set(gone[:10]) <= {row.key for row in old}


async def test_rows_of_a_clock_that_was_ahead_do_not_stay_for_that() -> None:
    """A start later, or on another machine: they count as used now, and no longer; new rows do not go before them."""
    times = Times()
    async with running(times.clock()) as bench:
        old = [meta([1000 + number], 0, 1) for number in range(10)]
        rows = tuple(stored(row, used_at=NOW + DAY, hits=(1 << 64) - 1) for row in old)
        bench.tell(TierUp("disk", "disk", 30_000), TierRows("disk", rows, 10, 10))
        counters = await bench.settled()
        assert (counters["healed.times"], counters["healed.hits"]) == (10, 10)
        times.passes(HALF_LIFE)
        gone = await saved_one_by_one(bench, times, 12)
        assert set(gone[:10]) <= {row.key for row in old}
        assert {info.used_at <= times.wall for info in await bench.ref.call(ListRows())} == {True}


async def test_a_use_is_told_to_tiers_by_the_machines_clock() -> None:
    """So that the next start, or another program, reads what it would have written itself."""
    times = Times()
    async with running(times.clock()) as bench:
        row = meta(STORY, 0, 10)
        bench.tell(TierUp("disk", "disk", 1 << 30), TierRows("disk", (stored(row, hits=MOST_HITS),), 1, 1))
        await bench.settled()
        times.wall -= DAY
        times.passes(5)
        bench.actor._look_ups.touch(row.key, "disk")
        await bench.settled()
        (touch,) = [one for one in bench.disk.told if isinstance(one, Touch)]
        assert (touch.hits, touch.used_at) == (MOST_HITS, times.wall)


# --- what nobody saved -----------------------------------------------------------------------------------------------


def crafted(key: int, parent: int, start: int, end: int) -> StoredRow:
    """A row whose header is whole, of a chain that cannot be."""
    row = meta(STORY, start, end)
    return stored(
        type(row)(
            **{name: getattr(row, name) for name in row.__struct_fields__ if name not in ("key", "parent")},
            key=bytes([key]) * 32, parent=bytes([parent]) * 32,
        )
    )  # fmt: skip


CIRCLE = [crafted(1, 2, 5, 10), crafted(2, 1, 3, 7), crafted(3, 3, 5, 9)]


async def test_rows_that_extend_each_other_in_a_circle_are_removed() -> None:
    """By gc, with nothing else; they count as orphans."""
    async with running() as bench:
        good = chain(STORY, 10, 20)
        rows = (*CIRCLE, *map(stored, good))
        bench.tell(TierUp("disk", "disk", 1 << 30), TierRows("disk", rows, len(rows), len(rows)))
        await bench.ref.call(Gc())
        assert set(bench.removed()) == {row.meta.key for row in CIRCLE}


async def test_rows_in_a_circle_make_room_first() -> None:
    """They are leaves, and of no use: a save takes their place, and an eviction ends."""
    times = Times()
    async with running(times.clock()) as bench:
        bench.tell(TierUp("disk", "disk", 30_000), TierRows("disk", tuple(CIRCLE), 3, 3))
        bench.tell(TierRows("disk", (stored(meta(STORY, 0, 10), used_at=NOW),), 1, 1))
        gone = await saved_one_by_one(bench, times, 20)
        assert {row.meta.key for row in CIRCLE} <= set(gone)
        await bench.ref.call(EvictBytes(1 << 40, ("disk",)))
        assert not bench.actor.index.books["disk"].rows


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 2, st.integers(0, 6), st.integers(1, 4)), max_size=12))
def test_whatever_is_crafted_can_be_removed(rows: list[tuple[int, int, int, int]]) -> None:
    """Every row is a leaf, an orphan or extended by one of these: nothing stays for ever."""
    index = Index()
    index.add_tier("disk", "disk", 1 << 30)
    for number, parent, start, length in rows:
        index.add("disk", crafted(number, parent, start, start + length))
    for tier, keys in orphans(index, "disk"):
        for key in keys:
            index.drop(tier, key)
    while victims := choose_victims(index, "disk", 1 << 40, 0.0)[0]:
        for key in victims:
            index.drop("disk", key)
    assert len(index) == 0
    assert not index.books["disk"].links


def test_no_row_is_worth_the_same_as_all_others_for_its_numbers() -> None:
    """Seconds that nobody can have computed are no reason to stay for ever."""
    index = Index()
    index.add_tier("disk", "disk", 1 << 30)
    for number, seconds in enumerate((1e300, -1e300, 1.0)):
        index.add("disk", stored(meta([number], 0, 1, prefill_seconds=seconds), used_at=NOW))
    index.add("disk", stored(meta([9], 0, 1), used_at=NOW + DAY))
    victims, _ = choose_victims(index, "disk", 3000, NOW + DAY)
    assert meta([9], 0, 1).key not in victims
