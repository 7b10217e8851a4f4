"""Static supervisors at their end: stops in every state, deadlines, and children that do not let go."""

from __future__ import annotations

import pytest
from helpers.checkpoints import quiet_loop, turns
from helpers.clock import ManualClock
from helpers.names import wait_free, wait_registered
from helpers.players import ROUND, Stage, launch, running, until

from erllama_py.actors import ChildFailure, ChildSpec, Stopped, StopTimeout, Supervisor

pytestmark = pytest.mark.anyio


def states(supervisor: Supervisor) -> dict[str, str]:
    return {node.name: node.state for node in supervisor.snapshot().children}


def abc(stage: Stage, **options: object) -> list[ChildSpec]:
    return [stage.spec(name, **options) for name in "abc"]


async def test_a_stop_during_backoff_is_at_once() -> None:
    """No stop waits for a restart that will not happen."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        supervisor = Supervisor("top", abc(stage), limits=ROUND, clock=clock)
        async with running(supervisor) as run:
            stage.crash("a")
            await clock.sleeping(1.0)
            run.request_stop()
            assert await run.task == Stopped()
            assert states(supervisor) == {"a": "stopped", "b": "stopped", "c": "stopped"}


async def test_a_stop_while_starting_ends_what_was_started_and_never_says_ready() -> None:
    """The child in `init` is cancelled, the earlier ones are stopped."""
    async with quiet_loop():
        stage = Stage()
        stage.close("init b")
        supervisor = Supervisor("top", abc(stage))
        run = launch(supervisor)
        await until(lambda: "init b" in stage.log)
        supervisor.request_stop()
        assert await run.task == Stopped()
        assert not run.ready.done()
        assert stage.log[-2:] == ["terminate a", "gone a: stopped"]


async def test_a_child_that_is_busy_is_cancelled_after_its_deadline() -> None:
    """And not before; the others have their own deadlines."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        async with running(Supervisor("top", abc(stage, stop_timeout=5.0), clock=clock)) as run:
            stage.close("handle b")
            stage.names.cast("b", "hello")
            await turns()
            run.request_stop()
            await wait_free(stage.names, "c")
            await turns()
            await clock.sleeping(5.0)
            clock.advance(4.9)
            await turns()
            assert not run.task.done()
            clock.advance(0.1)
            assert await run.task == Stopped()
            assert not len(stage.names)


async def test_a_terminate_that_hangs_is_abandoned_after_a_second_deadline_and_reported() -> None:
    """The others are stopped all the same; its name stays taken until it really ends."""
    async with quiet_loop():
        stage, clock, told = Stage(), ManualClock(), list[ChildFailure]()
        supervisor = Supervisor("top", abc(stage), clock=clock, on_failure=told.append)
        async with running(supervisor) as run:
            stage.close("terminate b")
            run.request_stop()
            await until(lambda: "terminate b" in stage.log)
            for _ in range(2):
                await clock.sleeping(5.0)
                clock.advance(5.0)
                await turns()
            assert await run.task == Stopped()
        assert states(supervisor) == {"a": "stopped", "b": "failed", "c": "stopped"}
        (failure,) = told
        assert (failure.name, failure.outcome) == ("b", "abandoned")
        assert isinstance(failure.error, StopTimeout)
        assert list(stage.names) == ["b"]
        stage.open("terminate b")
        await wait_free(stage.names, "b")


async def test_a_cancelled_supervisor_cancels_its_children_without_waiting_for_their_deadlines() -> None:
    """Still in reverse order, and it still waits until they are gone."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        async with running(Supervisor("top", abc(stage), clock=clock)) as run:
            stage.close("handle b")
            stage.names.cast("b", "hello")
            await turns()
            run.task.cancel()
            assert await run.task == Stopped()
            assert not len(stage.names)
            gone = [entry[5] for entry in stage.log if entry.startswith("gone")]
            assert gone == ["c", "b", "a"]


async def test_a_crashed_child_whose_terminate_hangs_is_abandoned_and_the_others_go_on() -> None:
    """It is not restarted: a second one would fight it for what it still holds."""
    async with quiet_loop():
        stage, clock, told = Stage(), ManualClock(), list[ChildFailure]()
        supervisor = Supervisor("top", abc(stage), "one_for_one", ROUND, clock, on_failure=told.append)
        async with running(supervisor):
            stage.close("terminate b")
            stage.crash("b")
            for _ in range(2):
                await clock.sleeping(5.0)
                clock.advance(5.0)
                await turns()
            assert states(supervisor) == {"a": "running", "b": "failed", "c": "running"}
            assert [failure.outcome for failure in told] == ["abandoned"]
            stage.crash("a")
            await clock.sleeping(1.0)
            clock.advance(1.0)
            await wait_registered(stage.names, "a")
            assert stage.made == {"a": 2, "b": 1, "c": 1}
        stage.open("terminate b")
        await wait_free(stage.names, "b")


async def test_a_child_that_ends_by_itself_while_its_supervisor_stops_is_shown_as_stopped() -> None:
    """With its failure; nothing is left `running` in the last snapshot."""
    async with quiet_loop():
        stage = Stage()
        supervisor = Supervisor("top", abc(stage))
        async with running(supervisor) as run:
            stage.crash("a")
            stage.crash("c")
            run.request_stop()
            assert await run.task == Stopped()
        assert states(supervisor) == {"a": "stopped", "b": "stopped", "c": "stopped"}
        assert supervisor.snapshot().children[0].last_failure == "Crash: handle of a"
