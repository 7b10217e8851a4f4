"""Cancel and crash an actor, and its callers, at each await, and check every promise each time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import pytest
from helpers.checkpoints import Strike, at_each_checkpoint, turns
from helpers.names import wait_registered
from helpers.players import Crash, Player, Stage

from erllama_py.actors import (
    ActorEnded,
    ActorRun,
    Answer,
    Exit,
    NameNotFound,
    Raised,
    Reply,
    Runnable,
    Stop,
    Stopped,
)
from erllama_py.actors.running import Run

pytestmark = pytest.mark.anyio
T = TypeVar("T")


class Struck:
    """A runnable whose whole run is struck."""

    def __init__(self, inner: Runnable, strike: Strike) -> None:
        self.kind = inner.kind
        self.request_stop = inner.request_stop
        self._inner, self._strike = inner, strike

    async def run(self, ready: Callable[[], None], ending: Callable[[Exit], bool]) -> Exit:
        return await self._strike.coroutine(self._inner.run(ready, ending))


async def test_an_actor_cancelled_at_any_await_keeps_every_promise() -> None:
    """In `init`, waiting, handling and terminating: calls end, `terminate` runs once and whole, the name is free."""

    async def scenario(strike: Strike) -> None:
        stage = Stage()
        inner = ActorRun("a", lambda: stage.player("a"), stage.names)
        run = Run("a", lambda: Struck(inner, strike))
        ref = await wait_registered(stage.names, "a")
        calls = [ref.begin_call(message) for message in ("keep", "hello", "hello")]
        stop = asyncio.ensure_future(_stop_when_answered(calls[-1], run))
        for call in calls:
            try:
                assert await call.wait() == "HELLO"
            except ActorEnded as ended:
                assert ended.exit == Stopped()  # noqa: PT017  # one of two right outcomes
        assert await run.task == Stopped()
        await stop
        assert stage.log.count("terminate a") == stage.log.count("gone a: stopped") == 1
        assert stage.log[-1] == "gone a: stopped"
        assert "a" not in stage.names

    assert await at_each_checkpoint(scenario) >= 5


async def _stop_when_answered(call: Reply[object], run: Run) -> None:
    answered = asyncio.Event()
    call.on_settled(answered.set)
    await answered.wait()
    await turns()
    run.request_stop()


@pytest.mark.parametrize("stage_of_life", ["init", "handle", "terminate"])
async def test_an_actor_that_crashes_at_any_await_of_its_own_keeps_every_promise(stage_of_life: str) -> None:
    """The calls end with the cause, the run ends with the same error, the name is free."""
    error = Crash("struck")

    async def scenario(strike: Strike) -> None:
        async def fragile(part: str, work: Coroutine[Any, Any, T]) -> T:
            return await (strike.coroutine(work) if part == stage_of_life else work)

        class Fragile(Player):
            async def init(self) -> None:
                await fragile("init", super().init())

            async def handle(self, message: str, reply: Reply[Any] | None) -> Answer | Stop | None:
                return await fragile("handle", super().handle(message, reply))

            async def terminate(self, exit: Exit) -> None:
                await fragile("terminate", super().terminate(exit))

        stage = Stage()
        run = Run("a", lambda: ActorRun("a", lambda: Fragile(stage), stage.names))
        ref = await wait_registered(stage.names, "a")
        try:
            assert await ref.call("hello") == "HELLO"
        except ActorEnded as ended:
            assert ended.__cause__ is error  # noqa: PT017  # one of two right outcomes
        run.request_stop()
        await asyncio.wait((run.task,))
        assert run.exit == (Raised(error) if strike.struck else Stopped())
        assert stage.log.count("terminate a") == 1
        assert "a" not in stage.names

    assert await at_each_checkpoint(scenario, lambda: error) >= 1


async def test_a_caller_cancelled_at_any_await_abandons_its_call_and_no_other() -> None:
    """The actor hears of it and serves the next one."""

    async def scenario(strike: Strike) -> None:
        stage = Stage()
        run = Run("a", lambda: ActorRun("a", lambda: stage.player("a"), stage.names))
        await run.ready
        caller = asyncio.ensure_future(strike.coroutine(stage.names.call("a", "hello", timeout=60)))
        with suppress(asyncio.CancelledError):
            assert await caller == "HELLO"
        assert await stage.names.call("a", "next") == "NEXT"
        ref = stage.names.whereis("a")
        assert "0 open calls" in repr(ref)
        run.request_stop()
        await run.task
        with pytest.raises(NameNotFound):
            await stage.names.call("a", "gone")

    assert await at_each_checkpoint(scenario) >= 1
