"""Cancel starts, stops and supervisors at each await; nothing leaks and no name stays taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import anyio
import pytest
from helpers.checkpoints import Strike, at_each_checkpoint, quiet_loop, turns
from helpers.clock import ManualClock
from helpers.names import wait_free, wait_registered
from helpers.players import ROUND, Stage, running, until

from erllama_py.actors import ChildSpec, DynamicSupervisor, Exit, Names, Stopped, Supervisor
from erllama_py.actors.running import Run

pytestmark = pytest.mark.anyio


async def test_a_start_cancelled_at_any_await_is_taken_back_or_done() -> None:
    """The caller gets its cancellation after the child is gone, and the name can be started again at once."""

    async def scenario(strike: Strike) -> None:
        stage, supervisor = Stage(), DynamicSupervisor("crew")
        async with running(supervisor):
            starting = asyncio.ensure_future(strike.coroutine(supervisor.start_child(stage.spec("a"))))
            try:
                await starting
            except asyncio.CancelledError:
                assert "a" not in stage.names
                assert supervisor.child_names() == ()
                await supervisor.start_child(stage.spec("a"))
            assert await stage.names.call("a", "hello") == "HELLO"

    assert await at_each_checkpoint(scenario) >= 1


@pytest.mark.parametrize("after_turns", range(8))
async def test_a_start_cancelled_at_any_moment_of_its_childs_life_is_taken_back_or_done(after_turns: int) -> None:
    """However far `init` has got."""
    async with quiet_loop():
        stage, supervisor = Stage(), DynamicSupervisor("crew")
        async with running(supervisor):
            starting = asyncio.ensure_future(supervisor.start_child(stage.spec("a")))
            await turns(after_turns)
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
            assert ("a" in stage.names) == (not starting.cancelled()) == ("a" in supervisor.child_names())
            assert stage.log.count("terminate a") == (starting.cancelled() and "init a" in stage.log)


async def test_a_cancelled_start_waits_for_a_slow_terminate_also_inside_a_cancelled_scope() -> None:
    """A scope delivers its cancellation again and again: it must neither get through nor spin."""
    async with quiet_loop():
        stage, supervisor = Stage(), DynamicSupervisor("crew", clock=ManualClock())
        async with running(supervisor):
            stage.close("init a")
            stage.close("terminate a")
            with anyio.CancelScope() as scope:
                asyncio.get_running_loop().call_later(0, scope.cancel)

                async def let_go() -> None:
                    await until(lambda: "terminate a" in stage.log)
                    await turns()
                    assert supervisor.child("a").state == "stopping"
                    stage.open("terminate a")

                helper = asyncio.ensure_future(let_go())
                await supervisor.start_child(stage.spec("a"))
            assert scope.cancelled_caught
            assert supervisor.child_names() == ()
            await helper


async def test_a_stop_whose_caller_is_cancelled_at_any_await_goes_on() -> None:
    """The caller leaves; the child ends all the same."""

    async def scenario(strike: Strike) -> None:
        stage, supervisor = Stage(), DynamicSupervisor("crew")
        async with running(supervisor):
            await supervisor.start_child(stage.spec("a"))
            stopping = asyncio.ensure_future(strike.coroutine(supervisor.child("a").stop()))
            with suppress(asyncio.CancelledError):
                await stopping
            await wait_free(stage.names, "a")
            await until(lambda: supervisor.child_names() == ())

    assert await at_each_checkpoint(scenario) >= 1


class StruckSupervisor(Supervisor):
    """Its own task is struck."""

    strike: Strike

    async def run(self, ready: Callable[[], None], ending: Callable[[Exit], bool]) -> Exit:
        return await self.strike.coroutine(super().run(ready, ending))


async def test_a_supervisor_cancelled_at_any_await_takes_all_its_children_with_it() -> None:
    """While starting, watching, in backoff, restarting and stopping; two levels deep."""

    async def scenario(strike: Strike) -> None:
        stage, clock = Stage(), ManualClock()
        children = [
            stage.spec("a"),
            ChildSpec("inner", lambda: Supervisor("inner", [stage.spec("b"), stage.spec("c")], clock=clock)),
        ]
        supervisor = StruckSupervisor("top", children, "one_for_all", ROUND, clock)
        supervisor.strike = strike
        run = Run("top", lambda: supervisor)
        script = asyncio.ensure_future(crash_and_stop(stage.names, clock, run))
        await asyncio.wait((run.task,))
        script.cancel()
        assert run.exit == Stopped()
        assert not len(stage.names)
        for name in "abc":
            assert stage.log.count(f"terminate {name}") == stage.log.count(f"gone {name}: stopped") + (
                stage.log.count(f"gone {name}: Crash: handle of {name}")
            )

    assert await at_each_checkpoint(scenario) >= 9


async def crash_and_stop(names: Names, clock: ManualClock, run: Run) -> None:
    """One crash, one restart of everything, one stop."""
    await run.ready
    names.cast("a", "crash")
    await clock.sleeping(1.0)
    clock.advance(1.0)
    await wait_registered(names, "c")
    await turns()
    run.request_stop()
