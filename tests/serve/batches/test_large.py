"""A batch of 50,000 lines: the event loop is never held for 20 ms, and memory grows by the places of its lines."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from pathlib import Path

import pytest
from helpers.batch_runs import GOOD, Folder
from helpers.batches import jsonl, line
from helpers.loop_holds import Hold, look

from erllama_py.serve.batches.asking import Answer
from erllama_py.serve.batches.lines import Bounds, Scan

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
MOST_HOLD = 0.02  # of the loop by itself; a thread that has the interpreter can be put off by others of the machine
LINES = 50_000
SOME = 10_000  # where memory is traced, which takes ten times as long
LINE_BYTES = 700  # in memory, of a line that was checked; of its text there are 240 bytes


@pytest.fixture(scope="module")
def data() -> bytes:
    return jsonl(line(number, text=f"question {number} " + "of many " * 8) for number in range(LINES))


async def test_a_large_batch_holds_nothing_up(tmp_path: Path, data: bytes) -> None:
    """While it is checked, taken up again, and half of its lines are answered."""
    half = LINES // 50

    async def endpoint(body: bytes, gone: asyncio.Event) -> Answer:
        at.draining = at.asked.total() >= half
        return GOOD

    at, holds = Folder(tmp_path, data, endpoint=endpoint, width=8), list[Hold]()
    gc.collect()
    watch = asyncio.create_task(look(holds))
    state = await at.over()
    at.asked.clear()
    at.draining = False
    again = await at.over()
    watch.cancel()
    assert (state.status, again.status, again.total) == ("in_progress", "in_progress", LINES)
    assert at.job.output.read_bytes().count(b"\n") >= 2 * half
    assert [hold for hold in holds if hold.own > MOST_HOLD or hold.seconds > 3 * MOST_HOLD] == []


async def test_what_is_known_of_a_large_batch_is_bounded(tmp_path: Path, data: bytes) -> None:
    """A few hundred bytes a line, never its text."""
    at = Folder(tmp_path, b"".join(data.splitlines(keepends=True)[:SOME]))
    at.draining = True
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        assert (await at.over()).status == "in_progress"
        await asyncio.to_thread(at.disk.threads.shutdown)  # a thread holds what it gave until it goes on
        gc.collect()  # its tasks are in cycles
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < SOME * LINE_BYTES
    assert after - before < SOME * 20


def test_a_line_without_an_end_takes_no_more_memory_than_a_line_may() -> None:
    """A file of one line of 100 MiB, in pieces."""
    scan, piece = Scan(Bounds(10, 1 << 20)), b"x" * (1 << 18)
    tracemalloc.start()
    try:
        for _ in range(400):
            scan.feed(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    scan.end()
    assert peak < 4 << 20
    assert [one.code for one in scan.problems] == ["line_too_long"]
