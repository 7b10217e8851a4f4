"""The border of a tree: started and stopped from anywhere, and every failure seen exactly once."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import pytest
from helpers.checkpoints import Strike, at_each_checkpoint, quiet_loop, turns
from helpers.clock import ManualClock
from helpers.players import Crash, Stage, function_spec, until
from helpers.terminal import run_script

from erllama_py.actors import (
    ActorEnded,
    ChildSpec,
    DynamicSupervisor,
    NameNotFound,
    RestartLimitReached,
    RestartLimits,
    Supervisor,
    SupervisorClosed,
    Tree,
)

pytestmark = pytest.mark.anyio
NEVER = RestartLimits(intensity=0)


def make(stage: Stage) -> Tree:
    """Two actors that are never restarted: one crash and the root gives up."""
    return Tree(Supervisor("root", [stage.spec("a"), stage.spec("b")], limits=NEVER))


async def crash_inside(stage: Stage, tree: Tree, body: Callable[[], Awaitable[object]]) -> None:
    """A block in which the tree fails."""
    async with tree:
        stage.crash("a")
        await body()


async def test_a_block_has_a_tree_that_is_ready_and_gone_after_it() -> None:
    """The plain case."""
    async with quiet_loop():
        stage = Stage()
        async with make(stage) as tree:
            assert await stage.names.call("a", "hello") == "HELLO"
            assert [node.state for node in tree.snapshot().children] == ["running", "running"]
        assert not len(stage.names)
        assert tree.failure is None
        assert [node.state for node in tree.snapshot().children] == ["stopped", "stopped"]


async def test_a_tree_can_be_started_and_stopped_from_different_tasks() -> None:
    """As lifespans and test fixtures do."""
    async with quiet_loop():
        stage = Stage()
        tree = make(stage)
        await asyncio.ensure_future(tree.start())
        assert await stage.names.call("a", "hello") == "HELLO"
        await asyncio.gather(tree.stop(), asyncio.ensure_future(tree.stop()))
        assert not len(stage.names)
        with pytest.raises(RuntimeError, match="started already"):
            await tree.start()


async def test_a_start_that_fails_raises_the_childs_own_error() -> None:
    """The same object, and nothing is left."""
    async with quiet_loop():
        stage = Stage()
        stage.fail_init.add("b")
        with pytest.raises(Crash, match="init of b"):
            async with make(stage):
                raise AssertionError("never entered")
        assert not len(stage.names)


async def test_a_root_that_gives_up_cancels_the_block_and_is_raised_once_as_a_single_exception() -> None:
    """`RestartLimitReached` from the crash, no group; and nothing stays cancelled."""
    async with quiet_loop():
        stage = Stage()
        tree = make(stage)
        with pytest.raises(RestartLimitReached) as raised:
            await crash_inside(stage, tree, asyncio.Event().wait)
        assert raised.value is tree.failure
        assert isinstance(raised.value.__cause__, Crash)
        current = asyncio.current_task()
        assert current is not None
        assert current.cancelling() == 0
        await turns()
        assert not len(stage.names)


async def test_a_failure_is_raised_also_by_a_block_that_swallows_the_cancellation() -> None:
    """Leaving the block raises it however the block was left."""

    async def swallow() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    async with quiet_loop():
        stage = Stage()
        with pytest.raises(RestartLimitReached):
            await crash_inside(stage, make(stage), swallow)


@pytest.mark.parametrize("after_turns", range(25))
async def test_a_failure_is_raised_at_whatever_moment_the_block_ends(after_turns: int) -> None:
    """Before the crash is noticed, while the tree fails, or with the cancellation pending: it hits no other task."""
    async with quiet_loop():
        stage = Stage()
        tree = make(stage)
        with suppress(RestartLimitReached):
            await crash_inside(stage, tree, lambda: turns(after_turns))
            assert tree.failure is None
        await turns()
        current = asyncio.current_task()
        assert current is not None
        assert current.cancelling() == 0
        assert not len(stage.names)


async def test_an_error_of_the_block_goes_through_unchanged() -> None:
    """The same object, after the tree has stopped."""
    async with quiet_loop():
        stage, error = Stage(), ValueError("mine")
        with pytest.raises(ValueError, match="mine") as raised:
            async with make(stage):
                raise error
        assert raised.value is error
        assert not hasattr(error, "__notes__")
        assert not len(stage.names)


async def test_an_error_of_the_block_wins_over_a_failure_of_the_tree_which_is_noted_on_it() -> None:
    """Nothing is lost, nothing is grouped."""

    async def body() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("mine") from None

    async with quiet_loop():
        stage = Stage()
        with pytest.raises(ValueError, match="mine") as raised:
            await crash_inside(stage, make(stage), body)
        (note,) = raised.value.__notes__
        assert note.startswith("the supervision tree failed as well: RestartLimitReached: 'a' failed")


async def test_a_cancellation_from_outside_stays_one() -> None:
    """It is not taken for the tree's own, and the tree is stopped."""
    async with quiet_loop():
        stage, inside = Stage(), asyncio.Event()

        async def body() -> None:
            async with make(stage):
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(body())
        await inside.wait()
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        assert not len(stage.names)


async def test_timeouts_around_and_inside_the_block_work_as_ever() -> None:
    """Of asyncio and of anyio."""
    async with quiet_loop():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0), make(Stage()):
                await asyncio.Event().wait()
        with anyio.move_on_after(0) as scope:
            async with make(Stage()):
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        async with make(Stage()):
            with anyio.move_on_after(0) as scope:
                await anyio.sleep_forever()
            assert scope.cancelled_caught


async def test_a_failure_reaches_through_a_task_group_of_the_block() -> None:
    """The group is cancelled like the block, and adds no group of its own."""

    async def body() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)

    async with quiet_loop():
        stage = Stage()
        with pytest.raises(RestartLimitReached):
            await crash_inside(stage, make(stage), body)


async def test_an_error_while_stopping_is_not_lost() -> None:
    """A tree that fails between the end of the block and its own is raised after it."""
    async with quiet_loop():
        stage, tree = Stage(), Tree(Supervisor("root", [function_spec("f", asyncio.Event().wait)], limits=NEVER))
        await tree.start()
        assert tree._run is not None
        tree._run.task.cancel()
        await until(lambda: tree.failure is not None)
        assert isinstance(tree.failure, ActorEnded)
        await tree.stop()
        assert not len(stage.names)


async def test_a_stop_during_the_start_takes_it_back() -> None:
    """The starter gets the error, nothing is left."""
    async with quiet_loop():
        stage = Stage()
        stage.close("init b")
        tree = make(stage)
        starting = asyncio.ensure_future(tree.start())
        await until(lambda: "init b" in stage.log)
        await tree.stop()
        with pytest.raises(SupervisorClosed):
            await starting
        assert not len(stage.names)


async def test_a_block_cancelled_at_any_await_leaves_no_task() -> None:
    """In its start, its body and its stop."""

    async def scenario(strike: Strike) -> None:
        stage = Stage()

        async def body() -> None:
            async with make(stage):
                assert await stage.names.call("a", "hello") == "HELLO"

        task = asyncio.ensure_future(strike.coroutine(body()))
        await asyncio.wait((task,))
        assert task.cancelled() == strike.struck
        assert not len(stage.names)

    assert await at_each_checkpoint(scenario) >= 3


async def test_a_cancelled_start_takes_itself_back() -> None:
    """At any await; also of a tree that hangs in its start."""
    async with quiet_loop():
        stage = Stage()
        stage.close("init b")
        tree = make(stage)
        starting = asyncio.ensure_future(tree.start())
        await until(lambda: "init b" in stage.log)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert not len(stage.names)


async def test_the_tree_runs_in_a_copy_of_its_starters_context() -> None:
    """What the application has bound is there in every child."""
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
    seen: list[str] = []

    async def look() -> None:
        seen.append(who.get())
        await asyncio.Event().wait()

    async with quiet_loop():
        who.set("application")
        async with Tree(Supervisor("root", [function_spec("f", look)], clock=ManualClock())):
            await until(lambda: bool(seen))
        assert seen == ["application"]


async def test_a_loop_that_is_closed_around_a_running_tree_does_not_hang() -> None:
    """All tasks are cancelled at once, as `asyncio.run` does at its end; everything ends."""
    async with quiet_loop():
        stage = Stage()
        before = asyncio.all_tasks()
        crew = DynamicSupervisor("crew")
        tree = Tree(Supervisor("root", [stage.spec("b"), ChildSpec("crew", lambda: crew)], limits=NEVER))
        await tree.start()
        await crew.start_child(stage.spec("a"))
        stage.close("terminate a")
        for task in asyncio.all_tasks() - before:
            task.cancel()
        await until(lambda: "terminate a" in stage.log)
        for task in asyncio.all_tasks() - before:
            task.cancel()
        await until(lambda: not asyncio.all_tasks() - before)
        with pytest.raises(NameNotFound):
            await stage.names.call("a", "hello")


WITHOUT_DESCRIPTORS = """
import asyncio, resource
from erllama_py.actors import MonotonicClock, RestartLimits, Supervisor, Tree

async def main():
    async with Tree(Supervisor("root", [], limits=RestartLimits(intensity=0))):
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        await MonotonicClock().sleep(0)

asyncio.run(main())
"""


@pytest.mark.slow
def test_what_a_tree_needs_is_imported_when_it_starts() -> None:
    """A wait or a stop must not fail because the process has no descriptor left to import a module with."""
    run_script(WITHOUT_DESCRIPTORS)
