"""Incarnations: a handle belongs to one child, and every kind of end wakes whoever waits for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers.checkpoints import quiet_loop, turns
from helpers.clock import ManualClock
from helpers.names import wait_free, wait_registered
from helpers.players import ROUND, Crash, Stage, function_spec, launch, running, until

from erllama_py.actors import (
    ActorEnded,
    ChildFailure,
    ChildSpec,
    DynamicSupervisor,
    Exit,
    Raised,
    RestartLimitReached,
    RestartLimits,
    Returned,
    Stopped,
    Supervisor,
)

pytestmark = pytest.mark.anyio
NEVER = RestartLimits(intensity=0)


async def test_a_stale_handle_does_nothing_to_its_successor() -> None:
    """`stop` and `wait` of the first are about the first alone, whoever has its name now."""
    async with quiet_loop():
        stage, supervisor = Stage(), DynamicSupervisor("crew")
        async with running(supervisor):
            first = await supervisor.start_child(stage.spec("a"))
            await first.stop()
            second = await supervisor.start_child(stage.spec("a"))
            await first.stop()
            assert await first.wait() == Stopped()
            assert (first.exit, second.exit) == (Stopped(), None)
            assert await stage.names.call("a", "hello") == "HELLO"
            assert supervisor.child("a") is second


async def test_a_failed_one_that_was_replaced_leaves_its_successor_in_the_tree() -> None:
    """Taking a failed child out twice takes out no other."""
    async with quiet_loop():
        stage, supervisor = Stage(), DynamicSupervisor("crew", NEVER)
        async with running(supervisor):
            first = await supervisor.start_child(stage.spec("a"))
            stage.crash("a")
            await first.wait()
            await first.stop()
            await supervisor.start_child(stage.spec("a"))
            await first.stop()
            assert supervisor.child_names() == ("a",)


async def test_an_end_for_good_is_reported_once_whatever_the_reason() -> None:
    """Stopped, returned, raised, given up, failed to start, and with its supervisor: each exactly once."""

    async def give() -> int:
        return 7

    async def fail() -> None:
        raise Crash("on purpose")

    async with quiet_loop():
        stage, told = Stage(), list[tuple[str, Exit]]()

        def heard(name: str) -> dict[str, Any]:
            return {"on_ended": lambda exit: told.append((name, exit))}

        supervisor = DynamicSupervisor("crew", NEVER)
        async with running(supervisor):
            for name in ("stopped", "crashed", "left"):
                await supervisor.start_child(stage.spec(name, **heard(name)))
            await supervisor.child("stopped").stop()
            stage.crash("crashed")
            await supervisor.child("crashed").wait()
            stage.fail_init.add("unborn")
            with pytest.raises(Crash):
                await supervisor.start_child(stage.spec("unborn", **heard("unborn")))
            for child in (
                function_spec("gives", give, restart="transient", **heard("gives")),
                function_spec("fails", fail, restart="temporary", **heard("fails")),
            ):
                await (await supervisor.start_child(child)).wait()
        assert [name for name, _ in told] == ["stopped", "crashed", "unborn", "gives", "fails", "left"]
        exits = dict(told)
        assert (exits["stopped"], exits["gives"], exits["left"]) == (Stopped(), Returned(7), Stopped())
        errors = {name: exit.error for name, exit in told if isinstance(exit, Raised)}
        assert isinstance(errors["crashed"], RestartLimitReached)
        assert isinstance(errors["unborn"], Crash)
        assert isinstance(errors["fails"], Crash)


@pytest.mark.parametrize("turn", range(4))
async def test_a_keeper_that_is_cancelled_from_outside_still_wakes_all_waiters(turn: int) -> None:
    """Before its first step too: a sweep over all tasks of the process must not leave anybody waiting."""
    async with quiet_loop():
        stage, supervisor, told = Stage(), DynamicSupervisor("crew"), list[Exit]()
        async with running(supervisor):
            keeper = supervisor.begin_child(stage.spec("a", on_ended=told.append))
            waiting = asyncio.ensure_future(keeper.wait())
            await turns(turn)
            keeper.cancel()
            assert await waiting == Stopped()
            assert keeper.started.done()
            assert (told, supervisor.child_names()) == ([Stopped()], ())
            await wait_free(stage.names, "a")


async def test_the_crash_that_spends_the_budget_says_to_open_calls_that_it_was_the_last() -> None:
    """The ones before it do not; whoever calls afterwards gets the same as those that were waiting."""
    async with quiet_loop():
        stage, clock, last = Stage(), ManualClock(), list[bool]()
        supervisor = DynamicSupervisor("crew", ROUND, clock)
        async with running(supervisor):
            keeper = await supervisor.start_child(stage.spec("a"))
            for number in range(ROUND.intensity + 1):
                await wait_registered(stage.names, "a")
                ref = stage.names.whereis("a")
                assert ref is not None
                kept = ref.begin_call("keep")
                stage.crash("a")
                with pytest.raises(ActorEnded) as ended:
                    await kept.wait()
                last.append(ended.value.last)
                with pytest.raises(ActorEnded) as after:
                    ref.begin_call("late")
                assert after.value.last == ended.value.last
                if number < ROUND.intensity:
                    await clock.sleeping(2.0**number)
                    clock.advance(2.0**number)
            await keeper.wait()
        assert last == [False] * ROUND.intensity + [True]


async def test_a_permanent_child_that_returns_is_distinguished_from_one_that_fails() -> None:
    """The error says that it returned, and why that was no end."""

    async def give() -> int:
        return 7

    async with quiet_loop():
        supervisor = DynamicSupervisor("crew", NEVER)
        async with running(supervisor):
            keeper = await supervisor.start_child(function_spec("give", give))
            exit = await keeper.wait()
            assert isinstance(exit, Raised)
            assert str(exit.error) == (
                "'give' returned after 0 restarts within 60 s: it is permanent, and so restarted when it returns too"
            )


async def test_children_that_ended_well_or_were_temporary_do_not_pile_up() -> None:
    """A hundred of them leave nothing in the tree; one that was given up stays, to be looked at."""

    async def give() -> int:
        return 7

    async def fail() -> None:
        raise Crash("on purpose")

    async with quiet_loop():
        supervisor = DynamicSupervisor("crew", NEVER)
        async with running(supervisor):
            for number in range(50):
                for restart in ("temporary", "transient"):
                    await supervisor.start_child(function_spec(f"{restart} {number}", give, restart=restart))
                await supervisor.start_child(function_spec(f"fails {number}", fail, restart="temporary"))
            await supervisor.start_child(function_spec("given up", fail))
            await until(lambda: supervisor.child_names() == ("given up",))


@pytest.mark.parametrize("sweeps", [1, 2, 5, 50])
async def test_an_actor_lets_go_of_what_it_has_however_often_all_tasks_are_cancelled(sweeps: int) -> None:
    """`terminate` begins, although the task that it runs in is cancelled before its first step."""
    async with quiet_loop():
        before = asyncio.all_tasks()
        stage, supervisor = Stage(), DynamicSupervisor("crew")
        run = launch(supervisor)
        await run.ready
        await supervisor.start_child(stage.spec("a"))
        for _ in range(sweeps):
            for task in asyncio.all_tasks() - before:
                task.cancel()
            await turns(1)
        await asyncio.wait((run.task,))
        await wait_free(stage.names, "a")
        assert "terminate a" in stage.log


async def test_a_supervisor_that_is_not_vital_is_given_up_alone() -> None:
    """Its parent reports it, spends nothing on it, and goes on with the others; a vital one is restarted."""
    async with quiet_loop():
        stage, told = Stage(), list[tuple[str, str]]()

        def part(name: str, vital: bool) -> ChildSpec:
            return ChildSpec(
                f"part {name}", lambda: Supervisor(f"part {name}", [stage.spec(name)], limits=NEVER), vital=vital
            )

        def tell(failure: ChildFailure) -> None:
            told.append((failure.name, failure.outcome))

        parts = [part("a", False), part("b", True)]
        limits = RestartLimits(intensity=1, backoff_first=0.0)
        async with running(Supervisor("whole", parts, limits=limits, on_failure=tell)):
            stage.crash("a")
            await until(lambda: told == [("part a", "ended"), ("part a", "gave_up")])
            stage.crash("b")
            await until(lambda: stage.made["b"] == 2)
            await wait_registered(stage.names, "b")
            assert await stage.names.call("b", "hello") == "HELLO"
            assert told[2:] == [("part b", "ended"), ("part b", "restarting")]
            assert "a" not in stage.names
