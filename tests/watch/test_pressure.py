"""The pressure monitor on a clock that stands still: it reads, evicts, and outlives what fails or hangs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest
from helpers.checkpoints import quiet_loop
from helpers.clock import ManualClock
from helpers.players import running

from erllama_py.actors import ActorEnded, ActorRun, ChildSpec, Names, Returned, Supervisor
from erllama_py.errors import InvalidOption
from erllama_py.memory import Reading
from erllama_py.options.runtime import PressureOpts
from erllama_py.results import PressureState
from erllama_py.watch.pressure import GetPressure, PressureMonitor
from erllama_py.watch.pressure_sources import HANG_SECONDS, Reader

pytestmark = pytest.mark.anyio

FULL, HALF = (90, 100), (50, 100)
EVERY = 5.0  # seconds, as is the default


class Scene:
    """A monitor, its clock, what its source answers next, and the evictions that it asked for."""

    def __init__(self, source: Any = None, **options: Any) -> None:
        self.clock, self.names = ManualClock(), Names()
        self.answer: Any = HALF
        self.freed: int | Exception = 7
        self.evictions: list[tuple[int, tuple[str, ...]]] = []
        self.opts = PressureOpts(source=source or self.source, min_evict_bytes=1, **options)

    async def source(self) -> Any:
        """The source where a test gives no other one."""
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    async def evict(self, nbytes: int, tiers: tuple[str, ...]) -> int:
        """In place of the cache."""
        self.evictions.append((nbytes, tiers))
        if isinstance(self.freed, Exception):
            raise self.freed
        return self.freed

    @asynccontextmanager
    async def runs(self) -> AsyncIterator[Scene]:
        """The monitor under a supervisor; it is stopped at the end, and leaves no task."""

        def monitor() -> PressureMonitor:
            return PressureMonitor(self.opts, self.evict, self.clock)

        spec = ChildSpec("pressure", lambda: ActorRun("pressure", monitor, self.names))
        async with quiet_loop(), running(Supervisor("watch", [spec], clock=self.clock)):
            yield self

    async def state(self) -> PressureState:
        """What the monitor answers."""
        state: PressureState = await self.names.call("pressure", GetPressure())
        return state

    async def begin_round(self) -> None:
        """Let the interval pass."""
        await self.clock.sleeping(EVERY)
        self.clock.advance(EVERY)

    async def round(self) -> PressureState:
        """Let the interval pass and one round come to its end."""
        await self.begin_round()
        await self.clock.sleeping(EVERY)
        return await self.state()


async def test_it_evicts_down_to_the_low_watermark_and_only_when_too_full() -> None:
    """Each interval: nothing at half, then what is above 0.75, in the tiers that may give rows up."""
    async with Scene(evict_tiers=("ram", "my_disk")).runs() as scene:
        state = await scene.round()
        assert (state.used, state.total) == HALF
        assert scene.evictions == []
        scene.answer = FULL
        await scene.round()
        scene.answer = HALF
        state = await scene.round()
        assert scene.evictions == [(15, ("ram", "my_disk"))]
        assert (state.readings, state.evictions, state.evicted_bytes, state.problem) == (3, 1, 7, None)


async def test_an_eviction_that_finds_nothing_is_not_counted() -> None:
    """The cache is empty and the memory is others': the monitor asks again each interval, and says nothing."""
    async with Scene().runs() as scene:
        scene.answer, scene.freed = FULL, 0
        await scene.round()
        state = await scene.round()
        assert len(scene.evictions) == 2
        assert (state.evictions, state.evicted_bytes, state.problem) == (0, 0, None)


async def test_off_it_reads_nothing() -> None:
    """No sleeper, no thread; it answers all the same."""
    async with Scene("noop").runs() as scene:
        assert await scene.state() == PressureState(source="noop")
        assert scene.clock.delays() == []


async def test_a_source_that_is_not_async_is_called_on_a_thread() -> None:
    """So it may block."""
    called_on: list[threading.Thread] = []

    def blocking() -> tuple[int, int]:
        called_on.append(threading.current_thread())
        return FULL

    async with Scene(blocking).runs() as scene:
        assert "blocking" in (await scene.round()).source
        assert scene.evictions == [(15, ("ram", "ram_file"))]
        assert called_on[0] is not threading.main_thread()
        assert called_on[0].daemon


async def test_sources_of_every_shape_are_understood() -> None:
    """A function that makes something to await, an object with an async `__call__`, a share of the machine's memory."""

    class Callable:
        async def __call__(self) -> float:
            return 0.5

    scene = Scene()
    half = Reading(psutil.virtual_memory().total // 2, psutil.virtual_memory().total)
    sources: list[Any] = [(lambda: scene.source(), Reading(*HALF)), (Callable(), half), (lambda: 0.5, half)]
    for source, expected in sources:
        async with Scene(source).runs() as other:
            state = await other.round()
            assert state.used == pytest.approx(expected.used, abs=1)
            assert state.total == expected.total


async def test_the_machine_can_be_its_source() -> None:
    """By name."""
    async with Scene("system").runs() as scene:
        total = (await scene.round()).total
        assert total is not None
        assert total > 1 << 20


@pytest.mark.parametrize(
    "failure", [RuntimeError("no sensor"), asyncio.CancelledError(), (1, 0), StopIteration()], ids=lambda one: repr(one)
)
async def test_a_source_that_fails_is_logged_once_and_asked_again(
    failure: object, caplog: pytest.LogCaptureFixture
) -> None:
    """Each failure is counted, the first of a row is logged, and the next good reading ends it."""
    caplog.set_level(logging.WARNING, "erllama_py")
    async with Scene().runs() as scene:
        scene.answer = failure
        await scene.round()
        state = await scene.round()
        assert (state.readings, state.failed_readings) == (0, 2)
        assert "cannot read the memory pressure" in str(state.problem)
        assert len(caplog.records) == 1
        scene.answer = FULL
        state = await scene.round()
        assert (state.readings, state.problem, len(scene.evictions)) == (1, None, 1)
        scene.answer = failure
        await scene.round()
        assert len(caplog.records) == 2


async def test_a_function_that_fails_on_its_thread_is_a_failed_reading() -> None:
    """The error crosses over."""

    def broken() -> float:
        raise OSError("no such device")

    async with Scene(broken).runs() as scene:
        assert "no such device" in str((await scene.round()).problem)


async def test_an_eviction_that_fails_is_logged_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """The cache may be restarting."""
    caplog.set_level(logging.WARNING, "erllama_py")
    async with Scene().runs() as scene:
        scene.answer, scene.freed = FULL, ActorEnded("cache", Returned())
        await scene.round()
        state = await scene.round()
        assert (state.failed_evictions, state.evictions) == (2, 0)
        assert "cannot evict" in str(state.problem)
        assert len(caplog.records) == 1
        scene.freed = 3
        state = await scene.round()
        assert (state.evicted_bytes, state.problem) == (3, None)


async def test_an_async_source_that_hangs_is_given_up_and_asked_again() -> None:
    """It is cancelled, and the monitor answers meanwhile."""
    hangs = asyncio.Event()
    cancelled: list[bool] = []

    async def source() -> tuple[int, int]:
        try:
            await hangs.wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        return FULL

    async with Scene(source).runs() as scene:
        await scene.begin_round()
        await scene.clock.sleeping(HANG_SECONDS)
        assert (await scene.state()).readings == 0
        scene.clock.advance(HANG_SECONDS)
        await scene.clock.sleeping(EVERY)
        assert "no answer within 10 s" in str((await scene.state()).problem)
        assert cancelled == [True]
        hangs.set()
        assert (await scene.round()).readings == 1


async def test_a_thread_that_hangs_is_not_joined_by_others() -> None:
    """One thread at most; when it has come back, the next reading is taken."""
    hangs, there, entered = threading.Event(), threading.Event(), list[threading.Thread]()

    def source() -> tuple[int, int]:
        entered.append(threading.current_thread())
        there.set()
        hangs.wait()
        return FULL

    async with Scene(source).runs() as scene:
        await scene.begin_round()
        await scene.clock.sleeping(HANG_SECONDS)
        await asyncio.to_thread(there.wait)
        scene.clock.advance(HANG_SECONDS)
        state = await scene.round()
        assert "an earlier reading has not ended" in str(state.problem)
        assert (state.failed_readings, len(entered)) == (2, 1)
        hangs.set()
        while (state := await scene.round()).readings == 0:
            assert "an earlier reading has not ended" in str(state.problem)
        assert (state.readings, len(entered)) == (1, 2)
    assert scene.evictions == [(15, ("ram", "ram_file"))]  # a reading that was given up evicts nothing


async def test_a_hanging_source_does_not_hold_up_the_end() -> None:
    """The supervisor stops the monitor while its source hangs, without waiting for a deadline."""
    hangs, entered = threading.Event(), threading.Event()

    def source() -> tuple[int, int]:
        entered.set()
        hangs.wait()
        return FULL

    try:
        async with Scene(source).runs() as scene:
            await scene.begin_round()
            await asyncio.to_thread(entered.wait)
        assert scene.evictions == []
    finally:
        hangs.set()


async def test_without_nvidia_smi_the_start_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """The caller gets the error at once, not from a log."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monitor = PressureMonitor(PressureOpts(source="nvidia_smi"), Scene().evict, ManualClock())
    with pytest.raises(InvalidOption, match="there is no nvidia-smi"):
        await monitor.init()


async def test_its_repr_tells_the_state() -> None:
    """One line with source, reading and counts."""
    monitor = PressureMonitor(PressureOpts(source="system"), Scene().evict, ManualClock())
    assert "source='system'" in repr(monitor)
    assert "evicted_bytes=0" in repr(monitor)


async def test_all_readings_are_taken_by_one_thread_that_ends_with_the_monitor() -> None:
    """Starting a thread holds up the loop beside busy engines, so it is done once and not every interval."""
    clock, threads = ManualClock(), list[threading.Thread]()

    def source() -> float:
        threads.append(threading.current_thread())
        return 0.1

    reader = Reader(source, clock)
    for _ in range(3):
        await reader.read()
    assert len(set(threads)) == 1
    reader.close()
    threads[0].join()
