"""The tasks of look-ups: what the cache is asked and what is reported to it, and how far rows are read ahead of the
engine."""

from __future__ import annotations

import asyncio
import gc
import math
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from helpers.requests import NOTHING, PROMPT, rows_of
from helpers.runtime import until
from helpers.states import asked

from erllama_py.buffers import BufferPool
from erllama_py.cache.client import CacheClient
from erllama_py.cache.messages import CacheMessage, Explain, Find, Hit, Located, RowBytes, RowLost, Used
from erllama_py.model.look_ups import KeptLogits, LookUps
from erllama_py.results import CacheHit, CacheHitKind
from erllama_py.scheduler.messages import EndLookUp, Found, LookUp, ReadRows, RowRead

pytestmark = pytest.mark.anyio

ROWS = rows_of(PROMPT, *range(5, 61, 5))
N_VOCAB = 260
READ_AHEAD = 4  # as `docs/internals/cache.md` has it
NO_ROW = RowBytes(ROWS[0].meta, memoryview(b""), b"")


class Client(CacheClient):
    """A cache whose reads end when they are set, and that keeps what it hears."""

    def __init__(self) -> None:
        self.finds: list[Find | Explain] = []
        self.told: list[CacheMessage] = []
        self.reads: list[asyncio.Future[RowBytes | None]] = []

    async def find(self, message: Find | Explain) -> Hit | None:
        self.finds.append(message)
        return NOTHING

    async def read(self, row: Located, seconds: float) -> RowBytes | None:
        # Held by this frame, as a `Reply` holds its answer.
        read: asyncio.Future[RowBytes | None] = asyncio.get_running_loop().create_future()
        self.reads.append(read)
        return await read

    def tell(self, message: CacheMessage) -> bool:
        self.told.append(message)
        return True


@asynccontextmanager
async def look_ups() -> AsyncIterator[tuple[LookUps, Client, list[Found | RowRead]]]:
    """Those of a model `m`, and what they have posted."""
    client, posted = Client(), list[Found | RowRead]()
    tasks = LookUps(client, "model:m", KeptLogits(), N_VOCAB, posted.append, {})
    try:
        yield tasks, client, posted
    finally:
        await tasks.stop()


async def reads_begun(client: Client, count: int) -> None:
    """Wait until so many reads have begun."""
    await until(lambda: len(client.reads) == count)


async def settled() -> None:
    """Let every task come to where it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_four_rows_are_read_ahead_and_no_more() -> None:
    """At once, so that one is read while others go in; the next when one is in the cells: memory is bounded."""
    async with look_ups() as (tasks, client, posted):
        tasks.read(ReadRows(1, ROWS, singly=0))
        await reads_begun(client, READ_AHEAD)
        for read in client.reads:
            read.set_result(NO_ROW)
        await until(lambda: len(posted) == READ_AHEAD)
        await settled()
        assert len(client.reads) == READ_AHEAD
        for taken in range(1, 4):
            tasks.taken(1)
            await reads_begun(client, READ_AHEAD + taken)
        await settled()
        assert len(client.reads) == READ_AHEAD + 3


async def test_rows_are_handed_on_in_their_order() -> None:
    """Whichever is read first; and none after one that cannot be read."""
    async with look_ups() as (tasks, client, posted):
        tasks.read(ReadRows(1, ROWS, singly=0))
        await reads_begun(client, READ_AHEAD)
        contents = [RowBytes(row.meta, memoryview(b""), b"") for row in ROWS[:2]]
        client.reads[1].set_result(contents[1])
        await settled()
        assert posted == []
        client.reads[0].set_result(contents[0])
        client.reads[2].set_result(None)
        await until(lambda: len(posted) == 3)
        assert posted == [RowRead(1, contents[0]), RowRead(1, contents[1]), RowRead(1, None)]
        await settled()
        assert client.reads[3].cancelled()


@pytest.mark.parametrize("number", [0, 1])
async def test_rows_that_are_not_wanted_any_more_are_released_at_once(number: int) -> None:
    """Not when the garbage collector comes by: they lie in buffers that saves wait for. The first one's answer comes in
    the moment in which it is cancelled, the second one's was there."""
    pool = BufferPool(1 << 20)
    async with look_ups() as (tasks, client, posted):
        tasks.read(ReadRows(1, ROWS[:3], singly=0))
        await reads_begun(client, 3)
        payload = pool.take(1)
        assert payload is not None
        gc.disable()
        try:
            client.reads[number].set_result(RowBytes(ROWS[number].meta, payload, b""))
            del payload
            if number:
                await settled()
            tasks.end(cold_end())
            client.reads.clear()
            await settled()
            assert (posted, pool.leased) == ([], 0)
        finally:
            gc.enable()


async def test_the_cache_is_asked_for_as_long_as_the_request_says() -> None:
    """With whatever it names as its parent."""
    async with look_ups() as (tasks, client, posted):
        request = asked(1, PROMPT, parent_key=b"k" * 32, wait_seconds=1.25).request
        tasks.find(LookUp(request, after_saves=True), "disk", cuttable=True)
        await until(lambda: len(posted) == 1)
        (question,) = client.finds
        assert isinstance(question, Find)
        assert (question.wait_seconds, question.parent_key, question.tier) == (1.25, b"k" * 32, "disk")
        assert question.after_saves


@pytest.mark.parametrize(
    ("kind", "resumed", "counted"),
    [
        ("exact", True, "resume"), ("partial", True, "resume"), ("live", True, "live"), ("cold", True, "cold"),
        ("exact", False, "exact"), ("partial", False, "partial"), ("sticky", False, "live"),
    ],
)  # fmt: skip
async def test_a_hit_counts_as_resumed_where_the_caller_named_a_parent(
    kind: CacheHitKind, resumed: bool, counted: str
) -> None:
    """What the look-up itself was asked with says nothing of that: turns and followers name rows by themselves."""
    async with look_ups() as (tasks, client, posted):
        tasks.find(LookUp(asked(1, PROMPT, parent_key=b"k" * 32).request), "disk", cuttable=True)
        await until(lambda: len(posted) == 1)
        tasks.end(EndLookUp(1, CacheHit(kind, 20), ROWS[:1], None, 0.5, resumed))
        (used,) = client.told
        assert isinstance(used, Used)
        assert (used.kind, used.rows, used.seconds) == (counted, ROWS[:1], 0.5)


def cold_end(rows: tuple[Located, ...] = (), refused: Located | None = None) -> EndLookUp:
    return EndLookUp(1, CacheHit("cold", 0), rows, refused, 0.5)


async def test_a_request_that_ends_before_its_answer_is_there_was_cancelled() -> None:
    """Neither a hit nor a miss, whatever it had begun with before it was parked."""
    async with look_ups() as (tasks, client, _):
        tasks.find(LookUp(asked(1, PROMPT).request), "disk", cuttable=True)
        tasks.end(EndLookUp(1, CacheHit("exact", 20), (), None, 0.5, True))
        assert [used.kind for used in client.told if isinstance(used, Used)] == ["cancelled"]


@pytest.mark.parametrize(
    ("read", "taken", "refused", "kind"),
    [
        (1, 0, False, "cancelled"), (3, 0, False, "cancelled"), (3, 2, False, "cancelled"), (3, 3, False, "cold"),
        (3, 2, True, "cold"), (-1, 0, False, "cold"),
    ],
)  # fmt: skip
async def test_a_restore_that_ends_before_its_last_row_is_in_was_cancelled(
    read: int, taken: int, refused: bool, kind: str
) -> None:
    """Not where a row cannot be read, or is refused: there its request goes on without the rest."""
    async with look_ups() as (tasks, client, posted):
        tasks.read(ReadRows(1, ROWS[:3], singly=0))
        await reads_begun(client, 3)
        for number in range(abs(read)):
            client.reads[number].set_result(NO_ROW if read > 0 else None)
        await until(lambda: len(posted) == abs(read))
        for _ in range(taken):
            tasks.taken(1)
        tasks.end(cold_end(ROWS[:taken], ROWS[taken] if refused else None))
        assert [used.kind for used in client.told if isinstance(used, Used)] == [kind]


NUMBERS = struct.pack(f"<{N_VOCAB}f", *range(N_VOCAB))


@pytest.mark.parametrize(
    ("logits", "good"),
    [(b"", True), (NUMBERS, True), (NUMBERS[:-4], False), (NUMBERS + b"abcd", False), (b"x", False),
     (NUMBERS[:40] + struct.pack("<f", math.nan) + NUMBERS[44:], False)],
)  # fmt: skip
async def test_a_row_with_logits_that_no_token_can_be_drawn_from_is_refused(logits: bytes, good: bool) -> None:
    """Of another size, or no numbers: the request begins without the row, and no other finds it."""
    async with look_ups() as (tasks, client, posted):
        tasks.read(ReadRows(1, ROWS[:1], singly=0))
        await reads_begun(client, 1)
        content = RowBytes(ROWS[0].meta, memoryview(b""), logits)
        client.reads[0].set_result(content)
        await until(lambda: len(posted) == 1)
        assert posted == [RowRead(1, content if good else None)]
        assert client.told == ([] if good else [RowLost(ROWS[0].tier, ROWS[0].meta.key, "refused")])
