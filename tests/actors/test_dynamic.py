"""Dynamic supervisors: children come and go by name, and none of them holds up another."""

from __future__ import annotations

import asyncio
import contextvars

import pytest
from helpers.checkpoints import quiet_loop, turns
from helpers.clock import ManualClock
from helpers.names import wait_free, wait_registered
from helpers.players import ROUND, Crash, Stage, function_spec, launch, running, until

from erllama_py.actors import (
    ActorEnded,
    ChildFailure,
    DynamicSupervisor,
    NameNotFound,
    NameTaken,
    Raised,
    RestartLimitReached,
    RestartLimits,
    Returned,
    Stopped,
    StopTimeout,
    SupervisorClosed,
)

pytestmark = pytest.mark.anyio


async def test_a_child_is_ready_when_start_child_returns_and_gone_when_stop_child_does() -> None:
    """Its name can be used again at once."""
    async with quiet_loop():
        stage, supervisor = Stage(), DynamicSupervisor("crew")
        async with running(supervisor):
            for _ in range(2):
                await supervisor.start_child(stage.spec("a"))
                assert await stage.names.call("a", "hello") == "HELLO"
                assert (supervisor.child_names(), supervisor.child("a").state) == (("a",), "running")
                await supervisor.child("a").stop()
                assert "a" not in stage.names
                assert supervisor.child_names() == ()
        assert repr(supervisor) == "<DynamicSupervisor 'crew' stopped: no children>"


async def test_a_first_start_that_fails_goes_to_its_caller_as_it_is_and_is_not_restarted() -> None:
    """The child is gone then; the same name can be tried again."""
    async with quiet_loop():
        stage, told = Stage(), list[ChildFailure]()
        supervisor = DynamicSupervisor("crew", on_failure=told.append)
        async with running(supervisor):
            stage.fail_init.add("a")
            for _ in range(2):
                with pytest.raises(Crash, match="init of a"):
                    await supervisor.start_child(stage.spec("a"))
            assert (stage.made["a"], told, supervisor.child_names(), len(stage.names)) == (2, [], (), 0)
            stage.fail_init.clear()
            await supervisor.start_child(stage.spec("a"))


async def test_a_name_is_taken_from_the_moment_its_start_begins() -> None:
    """Also while it is starting, stopping, waiting to restart and failed."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        supervisor = DynamicSupervisor("crew", RestartLimits(intensity=1, backoff_first=1.0, jitter=0), clock)
        async with running(supervisor):
            seen = []

            async def is_taken() -> None:
                seen.append(supervisor.child("a").state)
                with pytest.raises(NameTaken):
                    await supervisor.start_child(stage.spec("a"))

            stage.close("init a")
            starting = asyncio.ensure_future(supervisor.start_child(stage.spec("a")))
            await until(lambda: "init a" in stage.log)
            await is_taken()
            stage.open("init a")
            await starting
            await is_taken()
            stage.crash("a")
            await clock.sleeping(1.0)
            await is_taken()
            clock.advance(1.0)
            await wait_registered(stage.names, "a")
            stage.crash("a")
            await until(lambda: supervisor.child("a").state == "failed")
            await is_taken()
            await supervisor.child("a").stop()
            await supervisor.start_child(stage.spec("a"))
            stage.close("terminate a")
            stopping = asyncio.ensure_future(supervisor.child("a").stop())
            await turns()
            await is_taken()
            stage.open("terminate a")
            await stopping
            assert seen == ["starting", "running", "backoff", "failed", "stopping"]
            assert stage.made["a"] == 3


async def test_no_start_and_no_stop_delays_another() -> None:
    """While one child hangs in `init` and another in `terminate`, a third comes and goes."""
    async with quiet_loop():
        stage, supervisor = Stage(), DynamicSupervisor("crew")
        async with running(supervisor):
            stage.close("init a")
            stage.close("terminate b")
            starting = asyncio.ensure_future(supervisor.start_child(stage.spec("a")))
            await supervisor.start_child(stage.spec("b"))
            stopping = asyncio.ensure_future(supervisor.child("b").stop())
            await supervisor.start_child(stage.spec("c"))
            stage.crash("c")
            await until(lambda: supervisor.child("c").state == "backoff")
            await supervisor.child("c").stop()
            assert not starting.done()
            assert not stopping.done()
            stage.open("init a")
            stage.open("terminate b")
            await asyncio.gather(starting, stopping)


async def test_a_child_over_its_limit_is_kept_as_failed_and_reported_and_the_others_live_on() -> None:
    """Once, with its last failure; until it is stopped."""
    async with quiet_loop():
        stage, clock, told = Stage(), ManualClock(), list[ChildFailure]()
        supervisor = DynamicSupervisor("crew", ROUND, clock, on_failure=told.append)
        async with running(supervisor):
            await supervisor.start_child(stage.spec("a", limits=RestartLimits(intensity=0)))
            await supervisor.start_child(stage.spec("b"))
            await stage.names.call("b", "hello")
            stage.crash("a")
            exit = await supervisor.child("a").wait()
            assert isinstance(exit, Raised)
            assert isinstance(exit.error, RestartLimitReached)
            assert isinstance(exit.error.__cause__, Crash)
            assert [failure.outcome for failure in told] == ["ended", "gave_up"]
            for failure in told:
                assert (failure.supervisor, failure.name) == ("crew", "a")
                assert failure.error is exit.error.__cause__
            node = supervisor.snapshot().children[0]
            assert (node.state, node.uptime, node.last_failure) == ("failed", None, "Crash: handle of a")
            assert await stage.names.call("b", "handled") == 2
            await supervisor.child("a").stop()
            with pytest.raises(NameNotFound):
                await supervisor.child("a").stop()


async def test_each_child_has_a_budget_of_its_own() -> None:
    """Crashes of one do not count for another."""
    async with quiet_loop():
        stage, clock, told = Stage(), ManualClock(), list[ChildFailure]()
        supervisor = DynamicSupervisor("crew", ROUND, clock, on_failure=told.append)
        async with running(supervisor):
            for name in "abcde":
                await supervisor.start_child(stage.spec(name))
            for name in "abcde":
                stage.crash(name)
            await until(lambda: clock.delays() == [1.0] * 5)
            clock.advance(1.0)
            await until(lambda: {node.state for node in supervisor.snapshot().children} == {"running"})
            delays = [(failure.name, failure.delay) for failure in told if failure.outcome == "restarting"]
            assert delays == [(name, 1.0) for name in "abcde"]


async def test_a_restart_that_fails_in_init_counts_towards_the_budget() -> None:
    """It is not the caller's error any more."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        supervisor = DynamicSupervisor("crew", ROUND, clock)
        async with running(supervisor):
            await supervisor.start_child(stage.spec("a"))
            stage.fail_init.add("a")
            stage.crash("a")
            for delay in (1.0, 2.0, 4.0):
                await clock.sleeping(delay)
                clock.advance(delay)
            exit = await supervisor.child("a").wait()
            assert isinstance(exit, Raised)
            assert str(exit.error.__cause__) == "init of a"


async def test_each_way_a_function_ends_is_reported_as_such() -> None:
    """It returned, it raised, it was stopped."""

    async def give() -> int:
        return 7

    async def fail() -> None:
        raise Crash("on purpose")

    async with quiet_loop():
        supervisor = DynamicSupervisor("crew")
        async with running(supervisor):
            give_one = await supervisor.start_child(function_spec("give", give, restart="transient"))
            assert await give_one.wait() == Returned(7)
            fail_one = await supervisor.start_child(function_spec("fail", fail, restart="temporary"))
            exit = await fail_one.wait()
            assert isinstance(exit, Raised)
            assert isinstance(exit.error, Crash)
            assert supervisor.child_names() == ()
            await supervisor.start_child(function_spec("wait", asyncio.Event().wait))
            waiting = asyncio.ensure_future(supervisor.child("wait").wait())
            await turns()
            await supervisor.child("wait").stop()
            assert await waiting == Stopped()
            with pytest.raises(NameNotFound):
                await supervisor.child("give").wait()


async def test_a_stop_while_starting_ends_the_start_for_its_caller_too() -> None:
    """`init` is cancelled at once, `start_child` raises `ActorEnded`."""
    async with quiet_loop():
        stage, supervisor = Stage(), DynamicSupervisor("crew")
        async with running(supervisor):
            stage.close("init a")
            starting = asyncio.ensure_future(supervisor.start_child(stage.spec("a")))
            await until(lambda: "init a" in stage.log)
            await supervisor.child("a").stop()
            with pytest.raises(ActorEnded, match="'a' ended: stopped"):
                await starting
            assert stage.log[-1] == "gone a: stopped"


async def test_a_stop_during_backoff_is_at_once_and_many_stops_are_one() -> None:
    """All callers return when the child is gone."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        supervisor = DynamicSupervisor("crew", ROUND, clock)
        async with running(supervisor):
            await supervisor.start_child(stage.spec("a"))
            stage.crash("a")
            await clock.sleeping(1.0)
            await asyncio.gather(*(supervisor.child("a").stop() for _ in range(3)))
            assert supervisor.child_names() == ()
            assert stage.made["a"] == 1


async def test_a_child_that_does_not_end_is_abandoned_failed_and_reported() -> None:
    """Each stop says so, and it stays in the tree; once it has really ended, a stop takes it out."""
    async with quiet_loop():
        stage, clock, told = Stage(), ManualClock(), list[ChildFailure]()
        supervisor = DynamicSupervisor("crew", clock=clock, on_failure=told.append)
        async with running(supervisor):
            await supervisor.start_child(stage.spec("a"))
            stage.close("terminate a")
            stopping = asyncio.ensure_future(supervisor.child("a").stop())
            for _ in range(2):
                await clock.sleeping(5.0)
                clock.advance(5.0)
                await turns()
            with pytest.raises(StopTimeout, match="'a' did not end"):
                await stopping
            assert [failure.outcome for failure in told] == ["abandoned"]
            assert supervisor.child("a").state == "failed"
            with pytest.raises(StopTimeout, match="'a' did not end"):
                await supervisor.child("a").stop()
            with pytest.raises(NameTaken):
                await supervisor.start_child(stage.spec("a"))
            stage.open("terminate a")
            await wait_free(stage.names, "a")
            await turns()
            await supervisor.child("a").stop()
            await supervisor.start_child(stage.spec("a"))


async def test_stopping_the_supervisor_stops_all_children_side_by_side() -> None:
    """Running, starting and waiting ones; callers that wait for a start get an error."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        supervisor = DynamicSupervisor("crew", ROUND, clock)
        async with running(supervisor) as run:
            for name in "abc":
                await supervisor.start_child(stage.spec(name))
            stage.close("init d")
            starting = asyncio.ensure_future(supervisor.start_child(stage.spec("d")))
            stage.crash("c")
            await clock.sleeping(1.0)
            stage.close("terminate a")
            stage.close("terminate b")
            run.request_stop()
            with pytest.raises(SupervisorClosed):
                await starting
            await until(lambda: {"terminate a", "terminate b"} <= set(stage.log))
            with pytest.raises(SupervisorClosed):
                await supervisor.start_child(stage.spec("e"))
            stage.open("terminate a")
            stage.open("terminate b")
            assert await run.task == Stopped()
            assert not len(stage.names)


async def test_a_supervisor_that_does_not_run_takes_no_children() -> None:
    """Neither before nor after."""
    async with quiet_loop():
        stage, supervisor = Stage(), DynamicSupervisor("crew")
        with pytest.raises(SupervisorClosed, match="'crew' is not running"):
            await supervisor.start_child(stage.spec("a"))
        async with running(supervisor):
            pass
        with pytest.raises(SupervisorClosed):
            await supervisor.start_child(stage.spec("a"))


async def test_a_cancelled_supervisor_takes_its_children_with_it() -> None:
    """Without waiting for their deadlines."""
    async with quiet_loop():
        stage, supervisor = Stage(), DynamicSupervisor("crew", clock=ManualClock())
        run = launch(supervisor)
        await run.ready
        for name in "ab":
            await supervisor.start_child(stage.spec(name))
        stage.close("handle a")
        stage.names.cast("a", "hello")
        await turns()
        run.task.cancel()
        assert await run.task == Stopped()
        assert not len(stage.names)


async def test_children_run_in_the_context_of_the_supervisor_not_of_their_starter() -> None:
    """What one request binds does not cling to a child that lives for days."""
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
    seen: list[str] = []

    async def look() -> None:
        seen.append(who.get())
        await asyncio.Event().wait()

    async with quiet_loop():
        supervisor = DynamicSupervisor("crew")
        who.set("supervisor")
        async with running(supervisor):
            who.set("starter")
            await supervisor.start_child(function_spec("f", look))
            await until(lambda: bool(seen))
        assert seen == ["supervisor"]


async def test_a_crashed_child_whose_terminate_hangs_is_abandoned_and_not_restarted() -> None:
    """A second one would fight it for what it still holds; the crash is the error one sees, with a note."""
    async with quiet_loop():
        stage, clock, told = Stage(), ManualClock(), list[ChildFailure]()
        supervisor = DynamicSupervisor("crew", ROUND, clock, on_failure=told.append)
        async with running(supervisor):
            await supervisor.start_child(stage.spec("a"))
            stage.close("terminate a")
            stage.crash("a")
            for _ in range(2):
                await clock.sleeping(5.0)
                assert supervisor.child("a").state == "stopping"
                clock.advance(5.0)
                await turns()
            exit = await supervisor.child("a").wait()
            assert isinstance(exit, Raised)
            assert isinstance(exit.error, Crash)
            assert exit.error.__notes__ == ["'a' did not end within 5 s of being stopped, nor 5 s later"]
            assert [failure.outcome for failure in told] == ["ended", "abandoned"]
            assert told[0].error is told[1].error.__cause__ is exit.error
            assert (supervisor.child("a").state, stage.made["a"]) == ("failed", 1)
            stage.open("terminate a")
            await wait_free(stage.names, "a")


async def test_a_start_that_fails_and_hangs_shows_its_own_error_once_it_is_abandoned() -> None:
    """The first error is the one you see, and no caller waits for ever."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        supervisor = DynamicSupervisor("crew", ROUND, clock)
        async with running(supervisor):
            stage.fail_init.add("a")
            stage.close("terminate a")
            starting = asyncio.ensure_future(supervisor.start_child(stage.spec("a")))
            for _ in range(2):
                await clock.sleeping(5.0)
                clock.advance(5.0)
                await turns()
            with pytest.raises(Crash, match="init of a"):
                await starting
            assert supervisor.child("a").state == "failed"
            stage.open("terminate a")
            await wait_free(stage.names, "a")
