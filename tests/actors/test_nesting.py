"""Supervisors under supervisors: escalation, order, and what a snapshot of the whole looks like."""

from __future__ import annotations

import asyncio
import math

import pytest
from helpers.checkpoints import quiet_loop
from helpers.clock import ManualClock
from helpers.names import wait_free, wait_registered
from helpers.players import ROUND, Crash, Stage, running, until

from erllama_py.actors import (
    ChildSpec,
    DynamicSupervisor,
    Raised,
    RestartLimitReached,
    RestartLimits,
    Stopped,
    Supervisor,
    TreeNode,
)

pytestmark = pytest.mark.anyio
ONCE = RestartLimits(intensity=1, period=60.0, backoff_first=1.0, jitter=0.0)


def two_levels(stage: Stage, clock: ManualClock) -> Supervisor:
    """`top` holds `x` and the supervisor `inner`, which holds `a` and `b`; each level restarts once a minute."""

    def inner() -> Supervisor:
        return Supervisor("inner", [stage.spec("a"), stage.spec("b")], limits=ONCE, clock=clock)

    return Supervisor(
        "top", [stage.spec("x"), ChildSpec("inner", inner, stop_timeout=math.inf)], "one_for_one", ONCE, clock
    )


async def crash_and_wait(stage: Stage, name: str) -> None:
    await (await wait_registered(stage.names, name)).call("hello")
    stage.crash(name)
    await wait_free(stage.names, name)


async def test_a_level_that_gives_up_is_restarted_as_a_whole_by_the_one_above() -> None:
    """Everything below is stopped first and comes back new; the neighbours never noticed."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        top = two_levels(stage, clock)
        async with running(top):
            await stage.names.call("x", "hello")
            for _ in range(2):
                await crash_and_wait(stage, "a")
                await clock.sleeping(1.0)
                clock.advance(1.0)
            await until(lambda: stage.made == {"x": 1, "a": 3, "b": 2})
            await wait_registered(stage.names, "b")
            assert await stage.names.call("x", "handled") == 2
            inner = top.snapshot().children[1]
            assert (inner.restarts, inner.kind) == (1, "supervisor")
            assert (
                inner.last_failure == "RestartLimitReached: 'a' failed after 1 restarts within 60 s: Crash: handle of a"
            )


async def test_a_failure_escalates_through_two_levels_to_a_single_exception_with_the_whole_chain() -> None:
    """top ← inner ← a ← the crash itself."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        async with running(two_levels(stage, clock)) as run:
            for _ in range(3):
                await crash_and_wait(stage, "a")
                await clock.sleeping(1.0)
                clock.advance(1.0)
            await crash_and_wait(stage, "a")
            await asyncio.wait((run.task,))
            assert isinstance(run.exit, Raised)
            error = run.exit.error
            assert isinstance(error, RestartLimitReached)
            assert error.name == "inner"
            cause = error.__cause__
            assert isinstance(cause, RestartLimitReached)
            assert cause.name == "a"
            assert isinstance(cause.__cause__, Crash)
        assert not len(stage.names)


async def test_a_first_start_that_fails_two_levels_down_shows_its_own_error_at_the_top() -> None:
    """Nothing is wrapped around it, and nothing is left running."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        stage.fail_init.add("b")
        async with running(two_levels(stage, clock)) as run:
            assert isinstance(run.exit, Raised)
            assert str(run.exit.error) == "init of b"
            assert not len(stage.names)


async def test_a_tree_stops_from_the_end_backwards_level_by_level() -> None:
    """The last child first, and what is below a supervisor before what comes before it."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        async with running(two_levels(stage, clock)) as run:
            run.request_stop()
            assert await run.task == Stopped()
        assert [entry[5] for entry in stage.log if entry.startswith("gone")] == ["b", "a", "x"]


async def test_a_supervisor_whose_deadline_passes_hurries_its_children() -> None:
    """They are cancelled although their own deadlines are far off, and nothing is left."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()

        def inner() -> DynamicSupervisor:
            return DynamicSupervisor("inner", clock=clock)

        top = Supervisor("top", [ChildSpec("inner", inner, stop_timeout=1.0)], clock=clock)
        async with running(top) as run:
            branch = top._children["inner"].run
            assert branch is not None
            assert isinstance(branch.runnable, DynamicSupervisor)
            await branch.runnable.start_child(stage.spec("a", stop_timeout=100.0))
            stage.close("handle a")
            stage.names.cast("a", "hello")
            await until(lambda: "handle a" in stage.log)
            run.request_stop()
            await until(lambda: clock.delays() == [1.0, 100.0])
            clock.advance(1.0)
            assert await run.task == Stopped()
            assert not len(stage.names)


async def test_a_snapshot_prints_as_a_tree() -> None:
    """Names, kinds, states, uptimes, restarts and last failures, at every level."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        children = [
            ChildSpec(
                "inner", lambda: Supervisor("inner", [stage.spec("a"), stage.spec("b")], limits=ROUND, clock=clock)
            ),
            stage.spec("x"),
        ]
        top = Supervisor("top", children, clock=clock)
        assert str(top.snapshot()) == "top (supervisor) stopped"
        async with running(top):
            stage.crash("b")
            await clock.sleeping(1.0)
            clock.advance(1.0)
            await wait_registered(stage.names, "b")
            await stage.names.call("b", "hello")
            clock.advance(1.5)
            assert str(top.snapshot()) == (
                "top (supervisor) running, up 2.5 s\n"
                "├── inner (supervisor) running, up 2.5 s\n"
                "│   ├── a (actor) running, up 2.5 s\n"
                "│   └── b (actor) running, up 1.5 s, 1 restart, last failure Crash: handle of b\n"
                "└── x (actor) running, up 2.5 s"
            )


def test_equal_children_do_not_confuse_the_drawing() -> None:
    """Only the last one ends the trunk, also where two nodes look the same."""
    leaf = TreeNode("leaf", "actor", "running", 0, None, None)
    assert str(TreeNode("top", "supervisor", "running", 0, None, None, children=(leaf, leaf))) == (
        "top (supervisor) running\n├── leaf (actor) running\n└── leaf (actor) running"
    )


def test_a_child_may_tell_something_of_its_own() -> None:
    """A phrase after its restarts; nothing for a child without one."""
    told = TreeNode("model", "actor", "running", 1, 2.0, "Crash: once", "2 of 4 threads")
    assert str(told) == "model (actor) running, up 2.0 s, 1 restart, 2 of 4 threads, last failure Crash: once"
