"""What an engine was doing can be read from its page: by others, at any time, and after it was killed."""

from __future__ import annotations

import mmap
import threading
from typing import Any

import pytest
from helpers.engine import engine, generate, stub
from helpers.runtime import until
from helpers.worker import bench, prompt
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.pace import Pace
from erllama_py.engine.recorder import MOST_REQUESTS, OPERATIONS, PAGE_BYTES, Doing, Operation, Recorder
from erllama_py.engine.stub import LOAD_STEPS
from erllama_py.engine.work import Work

numbers = st.integers(0, 2**62)


@given(st.sampled_from(OPERATIONS), st.lists(st.integers(-1, 2**62), max_size=100), numbers)
def test_what_is_written_is_read(operation: Operation, requests: list[int], tokens: int) -> None:
    """By another over the same page, with as many requests as there is room for."""
    page = bytearray(PAGE_BYTES)
    Recorder(page, lambda: 2.5).begin(operation, requests, tokens)
    assert Recorder(page).doing() == Doing(operation, 2.5, tokens, tuple(requests[:MOST_REQUESTS]), 1)


@given(st.floats(0, 1e9), st.builds(Work, numbers, numbers, st.floats(0, 1e9), numbers, numbers, numbers))
def test_counters_do_not_touch_the_operation(slowest: float, work: Work) -> None:
    """Both are there, whichever was written last."""
    page = mmap.mmap(-1, PAGE_BYTES)
    recorder, read = Recorder(memoryview(page)), Work()
    recorder.begin("decode", [1, 2], 3)
    recorder.count(Pace(slowest, 0.5), work)
    assert (recorder.doing().operation, recorder.doing().requests) == ("decode", (1, 2))
    recorder.copy_work(read)
    assert (recorder.pace(), read.decodes, read.parks) == (Pace(slowest, 0.5), work.decodes, work.parks)


def test_a_page_of_zeros_is_an_engine_that_has_not_begun() -> None:
    """It has no work, so nobody waits for its beats."""
    doing = Recorder().doing()
    assert (doing, doing.is_work) == (Doing(), False)


def test_a_page_is_read_whole_while_it_is_written() -> None:
    """All fields are of one operation."""
    recorder, stop = Recorder(), threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            recorder.begin("decode", [number] * MOST_REQUESTS, number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(2000):
            doing = recorder.doing()
            assert doing.beats == 0 or doing.requests == (doing.tokens,) * MOST_REQUESTS
    finally:
        stop.set()
        writer.join()


def test_a_tick_says_what_it_decodes_and_for_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decode with a part of a prompt in it is a prefill."""
    one = bench()
    seen: list[tuple[str, tuple[int, ...], int]] = []
    decode = one.backend.decode

    def noting(slices: Any) -> Any:
        doing = one.worker._recorder.doing()
        seen.append((doing.operation, doing.requests, doing.tokens))
        return decode(slices)

    monkeypatch.setattr(one.backend, "decode", noting)
    one.do(generate(1, prompt(1)), generate(2, prompt(2), seq_id=1))
    for _ in range(6):
        one.tick()
    assert seen[0][:2] == ("prefill", (1, 2))
    assert seen[-1] == ("decode", (1, 2), 2)


@pytest.mark.anyio
async def test_an_engine_that_waits_has_no_work() -> None:
    """It is idle between requests, and has ended at the end."""
    async with engine(stub()) as driver:
        recorder = driver.thread._run.recorder
        await until(lambda: recorder.doing().operation == "idle")
        driver.thread.submit(generate(1, range(5)))
        await until(lambda: recorder.doing().beats > 5 and not recorder.doing().is_work)
    assert recorder.doing().operation == "ended"


@pytest.mark.anyio
async def test_a_part_of_a_load_is_a_beat() -> None:
    """A load that reports goes on, however long the whole of it takes: the operation stays the same one."""
    recorder = Recorder(clock=iter(range(100)).__next__)
    recorder.begin("load")
    recorder.beat()
    assert recorder.doing() == Doing("load", 0, 0, (), 2)
    async with engine(stub()) as driver:
        seen = driver.thread._run.recorder
        await until(lambda: seen.doing().operation == "idle")
        assert seen.doing().beats >= LOAD_STEPS
