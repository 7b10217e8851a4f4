"""Long chains, many siblings, many pinned rows: no walk and no choice does more between two turns of the loop than a
bounded number of steps. What is counted is looks into the index, not seconds: `benchmarks/cache_index.py` has those."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from helpers.cache_bench import Bench, running
from helpers.rows import IDENTITY, meta, stored

from erllama_py.cache.book import Book
from erllama_py.cache.eviction import PORTION, SAMPLE, choose_victims
from erllama_py.cache.index import Index
from erllama_py.cache.keys import TOKEN_BYTES, pack_tokens, prefix_keys
from erllama_py.cache.messages import Find, Hit, Located, Used
from erllama_py.cache.orders import Leaves, Order
from erllama_py.cache.pace import AT_ONCE
from erllama_py.cache.policy import KeepFor
from erllama_py.cache.steps import CHUNK
from erllama_py.scheduler.reuse import usable_rows
from erllama_py.tiers.messages import RowMeta, TierRows, TierUp

pytestmark = pytest.mark.anyio

SPAN = 2
LONG = 3000  # rows of a chain: six portions
WIDE = 3000  # siblings
# A step looks into the index three times at most, and a generator may be a chunk late with what it reports.
MOST_LOOKS = 3 * (AT_ONCE + 2 * CHUNK)


class Turns:
    """Counts looks into the index between two turns of the loop; `most` is the largest count so far."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks = self.most = self.total = 0
        for owner, name in ((Index, "get"), (Index, "furthest"), (Index, "nearest"), (Book, "use"), (Order, "place")):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            self.looks += 1
            self.total += 1
            return method(*args)

        return counted

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            self.most, self.looks = max(self.most, self.looks), 0
            await asyncio.sleep(0)


def long_chain(n_rows: int = LONG) -> tuple[list[RowMeta], list[int]]:
    """A conversation of many short turns, and its tokens."""
    tokens = [number % 251 for number in range(n_rows * SPAN)]
    packed, ends = pack_tokens(tokens), range(0, len(tokens) + 1, SPAN)
    keys = prefix_keys(IDENTITY, packed, ends)
    model = meta(tokens[:SPAN], 0, SPAN)
    rows = [
        RowMeta(
            key=key, parent=parent, start=start, end=end, tokens=packed[TOKEN_BYTES * start : TOKEN_BYTES * end],
            fingerprint=model.fingerprint, quant_bits=model.quant_bits, ctx_params_hash=model.ctx_params_hash,
            build=model.build, payload_bytes=1000, logits_bytes=0, reason="cold", created_at=0.0, prefill_seconds=1.0,
        )
        for (start, end), (parent, key) in zip(pairwise(ends), pairwise(keys), strict=True)
    ]  # fmt: skip
    return rows, tokens


@asynccontextmanager
async def holding(rows: Sequence[RowMeta], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Bench, Turns]]:
    """A cache that knows these rows, and what it does from here on between two turns of the loop."""
    async with running() as bench:
        bench.tell(TierUp("disk", "disk", 1 << 40), TierRows("disk", tuple(map(stored, rows)), len(rows), len(rows)))
        await bench.settled()
        turns = Turns(monkeypatch)
        watch = asyncio.ensure_future(turns.watch())
        try:
            yield bench, turns
        finally:
            watch.cancel()


def find(number: int, tokens: Sequence[int], *, cuttable: bool = True, keep: int = 0) -> Find:
    keeps = (KeepFor(keep, 60.0),) if keep else ()
    return Find(
        holder="m", request_id=number, identity=IDENTITY, tokens=pack_tokens(tokens), cuttable=cuttable, tier="disk",
        keeps=keeps,
    )  # fmt: skip


def used(number: int, hit: Hit) -> Used:
    return Used(holder="m", request_id=number, kind="exact", rows=hit.chain, seconds=0.0)


@pytest.mark.slow
async def test_a_long_chain_is_found_pinned_kept_and_used_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop turns between them, and the answer is whole all the same."""
    rows, tokens = long_chain()
    async with holding(rows, monkeypatch) as (bench, turns):
        for number, prompt in enumerate((tokens, [*tokens, 7, 7, 7], [*tokens[:-SPAN], 8, 8, 8])):
            hit: Hit = await bench.ref.call(find(number, prompt, keep=len(prompt)))
            assert len(hit.chain) == LONG - (number == 2)
            assert all(bench.actor.index.is_pinned(row.meta.key) for row in hit.chain)
            bench.tell(used(number, hit))
            await bench.settled()
            assert not bench.actor.index.is_pinned(rows[0].key)
        assert turns.total > 10 * MOST_LOOKS
        assert turns.most <= MOST_LOOKS


@pytest.mark.slow
async def test_many_look_ups_that_come_together_let_the_loop_turn_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is short, and a mailbox gives thirty in a row."""
    rows, tokens = long_chain(300)
    async with holding(rows, monkeypatch) as (bench, turns):
        asked = [bench.ref.begin_call(find(number, tokens)) for number in range(100)]
        for reply in asked:
            assert len((await reply.wait()).chain) == 300
        assert turns.most <= MOST_LOOKS


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["all end elsewhere", "all are alike", "all are on the path"])
async def test_many_siblings_cost_a_handful_of_looks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever they end, and however alike they are; those that a prompt does not go through are not looked at."""
    spans = {
        "all end elsewhere": [[1000 + number] + [1] * (number % 200) for number in range(WIDE)],
        "all are alike": [[*[1] * 50, 1000 + number, 2] for number in range(WIDE)],
        "all are on the path": [[1] * (number + 1) for number in range(600)],
    }[kind]
    async with holding([meta(span, 0, len(span)) for span in spans], monkeypatch) as (bench, turns):
        for number, prompt in enumerate(([1] * 700, [*spans[7], 5, 5], [9] * 50, [1] * 45)):
            for cuttable in (False, True):
                hit: Hit = await bench.ref.call(find(number, prompt, cuttable=cuttable))
                bench.tell(used(number, hit))
                await bench.settled()
        assert turns.most <= MOST_LOOKS
        if kind != "all are on the path":
            assert turns.total < 1000


def test_rows_that_are_read_are_not_looked_at_when_room_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of the oldest they are: a choice looks at no more leaves than it compares, and again when they are
    free."""
    index = Index()
    index.add_tier("disk", "disk", 1 << 40)
    rows = [meta([number], 0, 1) for number in range(2000)]
    for number, row in enumerate(rows):
        index.add("disk", stored(row, used_at=float(number)))
    seen = 0

    def counted(leaves: Leaves) -> Any:
        nonlocal seen
        for key in leaves._order:
            seen += 1
            yield key

    monkeypatch.setattr(Leaves, "oldest", counted)
    index.pin([row.key for row in rows[:1500]], "reader")
    index.pin([rows[3].key], "another")
    assert set(choose_victims(index, "disk", 1, 0.0)[0]) <= {row.key for row in rows[1500:]}
    assert len(choose_victims(index, "disk", 1 << 40, 0.0)[0]) == PORTION
    index.unpin_all("reader")
    index.touch([row.key for row in rows[:1000]], 5000.0)
    assert choose_victims(index, "disk", 1000 * PORTION, 0.0)[0][0] in {row.key for row in rows[1000:]}
    assert seen <= 4 * (PORTION + SAMPLE)
    assert rows[3].key not in index.books["disk"].leaves
    index.unpin_all("another")
    assert rows[3].key in index.books["disk"].leaves


@pytest.mark.parametrize(
    ("memory", "n_swa", "grid", "limit"),
    [("window", 1, 256, None), ("recurrent", 0, None, 1), ("recurrent", 0, SPAN * LONG + 1, None)],
)
def test_where_none_of_a_long_chain_helps_that_is_found_in_one_pass(
    memory: Any, n_swa: int, grid: int | None, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a pass for each of its rows."""
    rows, tokens = long_chain()
    chain = tuple(Located(row, "disk", 1000) for row in rows)
    hit = Hit(chain=chain, reached=chain, length=len(tokens), saved_to=len(tokens), exact=True, miss=None)
    monkeypatch.setattr("erllama_py.scheduler.reuse._chain_to", lambda *_: pytest.fail("a chain that does not help"))
    assert usable_rows(hit, len(tokens), memory, n_swa, None, grid, limit) == ((), 0, False)
