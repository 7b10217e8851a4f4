"""Work beside an actor's messages: answers, errors, the end."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest
from helpers.checkpoints import quiet_loop, turns
from helpers.players import Crash

from erllama_py.actors import Reply, Threads
from erllama_py.actors.background import Background

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 10


async def test_work_settles_its_reply() -> None:
    """With the result, or with the error."""

    async def work(fails: bool) -> str:
        await asyncio.sleep(0)
        if fails:
            raise Crash
        return "done"

    async with quiet_loop():
        tasks = Background("a")
        good: Reply[Any] = Reply("a")
        bad: Reply[Any] = Reply("a")
        tasks.answer(good, work(False))
        tasks.answer(bad, work(True))
        assert await good.wait() == "done"
        with pytest.raises(Crash):
            await bad.wait()
        await turns()
        assert len(tasks) == 0


async def test_an_error_without_a_waiter_is_reported_to_the_loop() -> None:
    """It must not get lost."""

    async def work() -> None:
        raise Crash

    loop, complaints = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: complaints.append(context["exception"]))
    tasks = Background("a")
    await asyncio.wait((tasks.start(work()),))
    loop.set_exception_handler(None)
    assert [type(error) for error in complaints] == [Crash]


@pytest.mark.parametrize("begun", [False, True])
async def test_a_caller_that_goes_away_cancels_the_work(begun: bool) -> None:
    """Before its first step, and later."""
    steps: list[str] = []

    async def work() -> None:
        steps.append("begun")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            steps.append("ended")

    async with quiet_loop():
        tasks = Background("a")
        reply: Reply[Any] = Reply("a")
        task = tasks.answer(reply, work())
        if begun:
            await turns()
        reply.abandon()
        await asyncio.wait((task,))
        assert steps == (["begun", "ended"] if begun else [])


async def test_work_that_is_stopped_lets_go_of_what_it_holds() -> None:
    """At once, where it waited for a thread, and not when the garbage collector comes by: it may be a large buffer."""

    class Held:
        pass

    def wait() -> None:
        begun.set()
        go_on.wait(GUARD_SECONDS)

    async def work(held: Held) -> None:
        await threads.run(wait)
        assert isinstance(held, Held)

    threads, begun, go_on, held = Threads("a", 1), threading.Event(), threading.Event(), Held()
    known = weakref.ref(held)
    gc.disable()
    try:
        async with quiet_loop():
            tasks = Background("a")
            reply: Reply[Any] = Reply("a")
            tasks.answer(reply, work(held))
            del held
            await turns()
            assert begun.wait(GUARD_SECONDS)
            reply.fail(Crash())
            stopping = asyncio.ensure_future(tasks.stop())
            await turns()
            assert known() is not None
            go_on.set()
            await stopping
            assert known() is None
    finally:
        gc.enable()
        threads.close()


async def test_stop_waits_for_what_work_does_about_it() -> None:
    """Also for work that others start meanwhile."""
    steps: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            if name == "first":
                tasks.start(work("second"))
            await turns()
            steps.append(name)

    async with quiet_loop():
        tasks = Background("a")
        tasks.start(work("first"))
        await turns()
        await tasks.stop()
        assert steps[0] == "first"
        assert len(tasks) == 0
