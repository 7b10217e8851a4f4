"""Threads of one owner: begun ahead, waited for, left alone, and never those of the application."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import Any

import pytest
from helpers.checkpoints import quiet_loop, turns
from helpers.players import Crash

from erllama_py.actors import Home, Names, Threads, WrongLoop

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 10
# Each thread is at work on what never ends, as where a disk hangs.
HANGS = """
import asyncio, threading
from erllama_py.actors import Threads
async def main():
    threads, begun = Threads("a", 2), threading.Barrier(3)
    def hang():
        begun.wait()
        threading.Event().wait()
    tasks = [asyncio.create_task(getattr(threads, how)(hang)) for how in ("abandon", "run")]
    await asyncio.sleep(0)
    begun.wait()
    threads.close()
    for task in tasks * 2:
        task.cancel()
        await asyncio.sleep(0)
asyncio.run(main())
print("the loop is closed", flush=True)
"""


async def test_a_thread_is_waited_for_when_its_caller_is_cancelled() -> None:
    """`run` then raises; `finish` gives the result all the same."""
    async with quiet_loop():
        threads, both_begun, go_on = Threads("a", 2), threading.Barrier(3), threading.Event()

        def work() -> str:
            both_begun.wait(GUARD_SECONDS)
            assert go_on.wait(GUARD_SECONDS)
            return "done"

        run, finish = asyncio.create_task(threads.run(work)), asyncio.create_task(threads.finish(work))
        await turns()
        both_begun.wait(GUARD_SECONDS)
        run.cancel()
        finish.cancel()
        await turns()
        assert not run.done()
        assert not finish.done()
        go_on.set()
        await asyncio.wait((run, finish))
        assert run.cancelled()
        assert finish.result() == "done"
        threads.close()


@pytest.mark.parametrize("how", ["run", "finish"])
async def test_a_second_cancellation_does_not_wait_for_a_thread(how: str) -> None:
    """Nothing waits for what hangs, once the event loop is being closed."""
    async with quiet_loop():
        threads, begun, go_on = Threads("a", 1), threading.Event(), threading.Event()

        def work() -> None:
            begun.set()
            assert go_on.wait(GUARD_SECONDS)

        task = asyncio.create_task(getattr(threads, how)(work))
        await turns()
        assert begun.wait(GUARD_SECONDS)
        for still_there in (True, False):
            task.cancel()
            await turns()
            assert task.done() is not still_there
        assert task.cancelled()
        go_on.set()
        assert await threads.run(len, "four") == 4
        threads.close()


@pytest.mark.parametrize("count", [1, 4])
async def test_threads_can_be_begun_before_they_are_needed(count: int) -> None:
    """All of them, so that as much work at once begins none, on the loop, that runs meanwhile."""
    async with quiet_loop():
        threads, before = Threads("begun", count), set(threading.enumerate())
        await threads.begin()
        begun = {thread for thread in threading.enumerate() if thread.name.startswith("begun")} - before
        assert len(begun) == count
        at_once = threading.Barrier(count)

        def work() -> threading.Thread:
            at_once.wait(GUARD_SECONDS)
            return threading.current_thread()

        assert set(await asyncio.gather(*(threads.run(work) for _ in range(count)))) == begun
        threads.close()


class Held:
    """Work that fails once it is let go."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.go_on.wait(GUARD_SECONDS)
        raise Crash


async def test_an_error_on_a_thread_is_the_callers() -> None:
    """As it is; and one that a cancellation has overtaken is no complaint."""
    async with quiet_loop():
        threads, work = Threads("a", 1), Held()
        task = asyncio.create_task(threads.run(work))
        await turns()
        assert work.begun.wait(GUARD_SECONDS)
        task.cancel()
        work.go_on.set()
        await asyncio.wait((task,))
        assert task.cancelled()
        with pytest.raises(Crash):
            await threads.run(work)
        with pytest.raises(Crash):
            await threads.finish(work)
        threads.close()


@pytest.mark.parametrize("way", ["run", "abandon"])
async def test_work_that_has_not_begun_is_dropped_with_its_caller(way: str) -> None:
    """It does not wait, and is never done."""
    async with quiet_loop():
        threads, go_on, done = Threads("a", 1), threading.Event(), list[str]()
        first = asyncio.create_task(threads.run(go_on.wait, GUARD_SECONDS))
        await turns()
        second = asyncio.create_task(getattr(threads, way)(done.append, "second"))
        await turns()
        second.cancel()
        await asyncio.wait((second,))
        assert second.cancelled()
        go_on.set()
        await first
        await threads.run(done.append, "third")
        assert done == ["third"]
        threads.close()


async def test_work_that_was_abandoned_ends_by_itself() -> None:
    """Its caller leaves at once; an error of it is no complaint of the loop's."""
    async with quiet_loop():
        threads, work = Threads("a", 1), Held()
        task = asyncio.create_task(threads.abandon(work))
        await turns()
        assert work.begun.wait(GUARD_SECONDS)
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        work.go_on.set()
        assert await threads.run(len, "four") == 4
        with pytest.raises(Crash):
            await threads.abandon(work)
        threads.close()


@pytest.mark.parametrize("kind", [StopIteration, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
@pytest.mark.parametrize("how", ["run", "abandon", "finish"])
async def test_what_a_future_cannot_hold_is_raised_as_an_error(how: str, kind: type[BaseException]) -> None:
    """Else its caller would wait for ever, or the loop end."""

    def work() -> None:
        raise kind

    async with quiet_loop():
        threads = Threads("a", 1)
        with pytest.raises(RuntimeError, match=kind.__name__) as raised:
            await getattr(threads, how)(work)
        assert isinstance(raised.value.__cause__, kind)
        threads.close()


async def test_threads_that_the_system_does_not_have_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that could be begun work, also on what comes while all are busy, and end."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name in ("few_3", "few_4"):
            raise RuntimeError("can't start new thread")
        start(thread)

    async with quiet_loop():
        monkeypatch.setattr(threading.Thread, "start", refuse)
        threads = Threads("few", 5)
        await threads.begin()
        release = threading.Event()
        busy = [asyncio.ensure_future(threads.run(release.wait)) for _ in range(3)]
        queued = asyncio.ensure_future(threads.run(len, "four"))
        await asyncio.sleep(0)
        release.set()
        assert (await queued, [await one for one in busy]) == (4, [True] * 3)
        begun = [thread for thread in threading.enumerate() if thread.name.startswith("few")]
        assert len(begun) == 3
        threads.close()
        for thread in begun:
            thread.join(GUARD_SECONDS)
        assert not any(thread.is_alive() for thread in begun)


@pytest.mark.slow
def test_a_process_ends_while_a_thread_hangs() -> None:
    """It does not wait for one, closed or not."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, "-c", HANGS], stdout=subprocess.PIPE, env=environment) as process:
        try:
            said, _ = process.communicate(timeout=GUARD_SECONDS)
        finally:
            process.kill()
    assert (said, process.returncode) == (b"the loop is closed\n", 0)


async def test_threads_without_an_owner_end() -> None:
    """Also where they were never closed."""
    threads = Threads("left", 1)
    begun = await threads.run(threading.current_thread)
    del threads
    gc.collect()
    begun.join(GUARD_SECONDS)
    assert not begun.is_alive()


async def test_closed_threads_do_what_was_asked_for_before_and_no_more() -> None:
    """In order; what comes later is refused."""
    async with quiet_loop():
        threads, go_on, done = Threads("a", 1), threading.Event(), list[int]()
        before: list[Future[Any]] = [threads.executor.submit(go_on.wait, GUARD_SECONDS)]
        before += [threads.executor.submit(done.append, n) for n in range(3)]
        threads.close()
        with pytest.raises(RuntimeError, match="closed"):
            threads.executor.submit(done.append, 3)
        go_on.set()
        for future in before:
            future.result(GUARD_SECONDS)
        assert done == [0, 1, 2]


async def test_what_has_a_home_is_not_used_elsewhere() -> None:
    """From another thread, with a loop of its own or without one; before it settled, and after it left, it may be."""
    async with quiet_loop():
        home = Home()
        names = Names(home)
        home.check()
        await home.settle()
        home.check()

        async def elsewhere() -> None:
            await names.call("nobody", "hello")

        with pytest.raises(WrongLoop, match=r"it lives in the event loop 0x\w+ of thread 'MainThread'") as refused:
            await home.threads.run(home.check)
        assert "outside any event loop" in str(refused.value)
        with pytest.raises(WrongLoop, match=r"was used in the event loop 0x\w+ of thread 'caller"):
            await home.threads.run(asyncio.run, elsewhere())
        with pytest.raises(WrongLoop):
            await home.threads.run(names.cast, "nobody", "hello")
        threads = home.threads
        done = asyncio.get_running_loop().create_future()
        last = threads.executor.submit(len, "four")
        home.leave()
        last.add_done_callback(lambda _: done.get_loop().call_soon_threadsafe(done.set_result, None))
        await done
        home.check()


@pytest.mark.slow
def test_an_interrupt_that_another_thread_is_given_is_not_late() -> None:
    """The main one sleeps on in its wait, and Python runs no handler until it goes on."""
    threads, left, seen = Threads("a", 1), threading.Event(), list[bool]()

    def work() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        seen.append(left.wait(GUARD_SECONDS))

    with pytest.raises(KeyboardInterrupt):
        threads.call(work, leave=left.set)
    threads.close()
    assert seen == [True]
