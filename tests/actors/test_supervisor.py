"""Static supervisors: order, strategies, restart types, backoff, limits and deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from helpers.checkpoints import quiet_loop, turns
from helpers.clock import ManualClock
from helpers.names import wait_free, wait_registered
from helpers.players import ROUND, Crash, Stage, function_spec, launch, running, until
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.actors import (
    ActorEnded,
    ChildFailure,
    ChildSpec,
    NameNotFound,
    Raised,
    RestartLimitReached,
    RestartLimits,
    Stopped,
    Strategy,
    Supervisor,
)
from erllama_py.actors.child import Restart
from erllama_py.actors.restart_budget import affected_children

pytestmark = pytest.mark.anyio
STRATEGIES: tuple[Strategy, ...] = ("one_for_one", "one_for_all", "rest_for_one")


def states(supervisor: Supervisor) -> dict[str, str]:
    return {node.name: node.state for node in supervisor.snapshot().children}


def abc(stage: Stage, **options: object) -> list[ChildSpec]:
    return [stage.spec(name, **options) for name in "abc"]


@given(order=st.lists(st.text(max_size=3), min_size=1, unique=True), data=st.data())
def test_a_failure_affects_its_child_and_only_what_the_strategy_names(
    order: Sequence[str], data: st.DataObject
) -> None:
    """The laws: the failed child is in; start order is kept; rest_for_one keeps exactly what comes before."""
    failed = data.draw(st.sampled_from(order))
    assert affected_children("one_for_one", order, failed) == (failed,)
    assert affected_children("one_for_all", order, failed) == tuple(order)
    spared = order[: order.index(failed)]
    assert (*spared, *affected_children("rest_for_one", order, failed)) == tuple(order)


async def test_children_start_in_order_each_when_the_one_before_is_ready_and_stop_in_reverse() -> None:
    """Started means ready."""
    async with quiet_loop():
        stage = Stage()
        stage.close("init b")
        supervisor = Supervisor("top", abc(stage))
        run = launch(supervisor)
        await until(lambda: "init b" in stage.log)
        await turns()
        assert states(supervisor) == {"a": "running", "b": "starting", "c": "starting"}
        assert "init c" not in stage.log
        stage.open("init b")
        await run.ready
        assert states(supervisor) == {"a": "running", "b": "running", "c": "running"}
        run.request_stop()
        assert await run.task == Stopped()
        gone = [entry for entry in stage.log if entry.startswith("gone")]
        assert gone == ["gone c: stopped", "gone b: stopped", "gone a: stopped"]
        assert repr(supervisor) == "<Supervisor 'top' stopped: a stopped, b stopped, c stopped>"


async def test_a_first_start_that_fails_stops_the_earlier_ones_and_shows_its_own_error() -> None:
    """No restart, no wrapping; later children are never started."""
    async with quiet_loop():
        stage = Stage()
        stage.fail_init.add("c")
        children = [*abc(stage), stage.spec("d")]
        async with running(Supervisor("top", children)) as run:
            assert not run.ready.done()
            exit = run.exit
            assert isinstance(exit, Raised)
            assert (type(exit.error), str(exit.error)) == (Crash, "init of c")
        gone = [entry for entry in stage.log if entry.startswith("gone")]
        assert gone == ["gone c: Crash: init of c", "gone b: stopped", "gone a: stopped"]
        assert stage.made == {"a": 1, "b": 1, "c": 1}
        assert not len(stage.names)


async def test_a_factory_that_fails_is_a_failed_start() -> None:
    """Its error is the child's error."""

    def make() -> None:
        raise Crash("no parts")

    async with quiet_loop(), running(Supervisor("top", [ChildSpec("a", make)])) as run:  # type: ignore[arg-type]  # it never returns
        assert isinstance(run.exit, Raised)
        assert str(run.exit.error) == "no parts"


@pytest.mark.parametrize(
    ("strategy", "restarted"), [("one_for_one", "b"), ("one_for_all", "abc"), ("rest_for_one", "bc")]
)
async def test_a_crash_restarts_what_the_strategy_names_after_the_backoff(strategy: Strategy, restarted: str) -> None:
    """The names are free during the backoff, the new actors have new state, the others never noticed."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        supervisor = Supervisor("top", abc(stage), strategy, ROUND, clock)
        async with running(supervisor):
            for name in "abc":
                await stage.names.call(name, "hello")
            stage.log.clear()
            stage.crash("b")
            await wait_free(stage.names, "b")
            await clock.sleeping(1.0)
            assert [name for name in "abc" if name not in stage.names] == list(restarted)
            assert [name for name, state in states(supervisor).items() if state == "backoff"] == list(restarted)
            stopped = [entry[5] for entry in stage.log if entry.startswith("gone") and entry[5] != "b"]
            assert stopped == [name for name in reversed(restarted) if name != "b"]
            clock.advance(1.0)
            await until(lambda: set(states(supervisor).values()) == {"running"})
            assert [entry[5] for entry in stage.log if entry.startswith("init")] == list(restarted)
            for name in "abc":
                assert await stage.names.call(name, "handled") == (1 if name in restarted else 2)
            node = supervisor.snapshot().children[1]
            assert (node.restarts, node.last_failure) == (1, "Crash: handle of b")


@pytest.mark.parametrize(
    ("restart", "message", "state"),
    [
        ("permanent", "crash", "backoff"),
        ("permanent", "stop", "backoff"),
        ("transient", "crash", "backoff"),
        ("transient", "stop", "finished"),
        ("temporary", "crash", "failed"),
        ("temporary", "stop", "finished"),
    ],
)
async def test_the_restart_type_decides_which_children_are_restarted(
    restart: Restart, message: str, state: str
) -> None:
    """Permanent always, transient after failures, temporary never."""
    async with quiet_loop():
        stage = Stage()
        supervisor = Supervisor("top", [stage.spec("a", restart=restart)], limits=ROUND, clock=ManualClock())
        async with running(supervisor):
            stage.names.cast("a", message)
            await until(lambda: states(supervisor)["a"] not in ("running", "stopping"))
            assert states(supervisor)["a"] == state


async def test_temporary_children_do_not_come_back_with_their_group() -> None:
    """They are stopped with it and stay stopped."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        children = [stage.spec("a"), stage.spec("b", restart="temporary"), stage.spec("c", restart="transient")]
        supervisor = Supervisor("top", children, "one_for_all", ROUND, clock)
        async with running(supervisor):
            stage.names.cast("c", "stop")
            await until(lambda: states(supervisor)["c"] == "finished")
            stage.crash("a")
            await clock.sleeping(1.0)
            assert states(supervisor) == {"a": "backoff", "b": "stopped", "c": "backoff"}
            clock.advance(1.0)
            await until(lambda: states(supervisor) == {"a": "running", "b": "stopped", "c": "running"})


async def test_over_the_limit_all_children_are_stopped_and_the_failure_goes_up_with_its_cause() -> None:
    """Three restarts within the minute, then the end; each restart is reported, and the giving up."""
    async with quiet_loop():
        stage, clock, told = Stage(), ManualClock(), list[ChildFailure]()
        supervisor = Supervisor("top", abc(stage), limits=ROUND, clock=clock, on_failure=told.append)
        async with running(supervisor) as run:
            for delay in (1.0, 2.0, 4.0):
                await (await wait_registered(stage.names, "b")).call("hello")
                stage.crash("b")
                await clock.sleeping(delay)
                clock.advance(delay)
            await (await wait_registered(stage.names, "b")).call("hello")
            stage.crash("b")
            await asyncio.wait((run.task,))
            assert isinstance(run.exit, Raised)
            error = run.exit.error
            assert isinstance(error, RestartLimitReached)
            assert (error.name, error.restarts, error.period) == ("b", 3, 60.0)
            assert isinstance(error.__cause__, Crash)
            assert str(error) == "'b' failed after 3 restarts within 60 s: Crash: handle of b"
        follows = [("restarting", 1.0), ("restarting", 2.0), ("restarting", 4.0), ("gave_up", None)]
        assert [(failure.outcome, failure.delay) for failure in told] == [
            one for pair in follows for one in (("ended", None), pair)
        ]
        assert supervisor.snapshot().state == "failed"
        assert states(supervisor) == {"a": "stopped", "b": "failed", "c": "stopped"}
        assert not len(stage.names)


async def test_failures_that_are_far_apart_never_add_up() -> None:
    """A period without restarts gives the whole budget back, and the first delay."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        supervisor = Supervisor("top", [stage.spec("a")], limits=ROUND, clock=clock)
        async with running(supervisor):
            for _ in range(10):
                await wait_registered(stage.names, "a")
                stage.crash("a")
                await clock.sleeping(1.0)
                clock.advance(1.0)
                await until(lambda: states(supervisor)["a"] == "running")
                clock.advance(60.0)
            assert supervisor.snapshot().children[0].restarts == 10 - (states(supervisor)["a"] == "backoff")


async def test_a_crash_in_init_on_a_restart_counts_towards_the_budget() -> None:
    """A child that never comes up again is given up like one that keeps crashing."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        async with running(Supervisor("top", [stage.spec("a")], limits=ROUND, clock=clock)) as run:
            stage.fail_init.add("a")
            stage.crash("a")
            for delay in (1.0, 2.0, 4.0):
                await clock.sleeping(delay)
                clock.advance(delay)
            await asyncio.wait((run.task,))
            assert isinstance(run.exit, Raised)
            assert str(run.exit.error.__cause__) == "init of a"
            assert stage.made["a"] == 4


async def test_one_childs_backoff_does_not_delay_anothers_restart() -> None:
    """Under one_for_one each waits for its own time."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        limits = RestartLimits(intensity=10, backoff_first=1.0, backoff_factor=10.0, backoff_max=100.0, jitter=0.0)
        supervisor = Supervisor("top", abc(stage), limits=limits, clock=clock)
        async with running(supervisor):
            stage.crash("a")
            await clock.sleeping(1.0)
            stage.crash("b")
            await until(lambda: states(supervisor)["b"] == "backoff")
            await clock.sleeping(1.0)
            clock.advance(1.0)
            await until(lambda: states(supervisor)["a"] == "running")
            assert states(supervisor)["b"] == "backoff"
            await clock.sleeping(9.0)
            clock.advance(9.0)
            await until(lambda: states(supervisor)["b"] == "running")


async def test_an_earlier_child_that_crashes_during_a_backoff_takes_the_waiting_ones_with_it() -> None:
    """Under rest_for_one the restart starts over from the earliest, in order."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        supervisor = Supervisor("top", abc(stage), "rest_for_one", ROUND, clock)
        async with running(supervisor):
            stage.crash("b")
            await clock.sleeping(1.0)
            stage.crash("a")
            await clock.sleeping(2.0)
            stage.log.clear()
            clock.advance(1.0)
            await turns()
            assert not stage.log
            clock.advance(1.0)
            await until(lambda: set(states(supervisor).values()) == {"running"})
            assert [entry for entry in stage.log if entry.startswith("init")] == ["init a", "init b", "init c"]


async def test_functions_under_a_supervisor_are_handled_by_how_they_end() -> None:
    """A return finishes a transient one, an error restarts it, a stop cancels it."""
    async with quiet_loop():
        clock, ends = ManualClock(), asyncio.Queue[Exception | None]()
        log: list[str] = []

        async def loop() -> None:
            log.append("started")
            try:
                end = await ends.get()
            except asyncio.CancelledError:
                log.append("cancelled")
                raise
            if end is not None:
                raise end

        supervisor = Supervisor("top", [function_spec("f", loop, restart="transient")], limits=ROUND, clock=clock)
        async with running(supervisor):
            ends.put_nowait(Crash("once"))
            await clock.sleeping(1.0)
            clock.advance(1.0)
            await until(lambda: log == ["started", "started"])
            ends.put_nowait(None)
            await until(lambda: states(supervisor)["f"] == "finished")
        supervisor = Supervisor("top", [function_spec("f", loop)])
        async with running(supervisor):
            await until(lambda: len(log) == 3)
        assert log[-1] == "cancelled"


async def test_a_permanent_child_that_returns_too_often_is_a_failure_that_says_so() -> None:
    """`ActorEnded` stands in for the error there is not."""

    async def brief() -> int:
        return 7

    async with quiet_loop():
        limits = RestartLimits(intensity=0)
        async with running(Supervisor("top", [function_spec("f", brief)], limits=limits)) as run:
            await asyncio.wait((run.task,))
            assert isinstance(run.exit, Raised)
            cause = run.exit.error.__cause__
            assert isinstance(cause, ActorEnded)
            assert str(cause) == "'f' ended: returned"


async def test_a_listener_that_fails_affects_no_child() -> None:
    """Its error goes to the loop's exception handler; the restart happens."""
    complaints: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(type(context["exception"])))

    def fail(failure: ChildFailure) -> None:
        raise ValueError

    stage, clock = Stage(), ManualClock()
    async with running(Supervisor("top", [stage.spec("a")], limits=ROUND, clock=clock, on_failure=fail)):
        stage.crash("a")
        await clock.sleeping(1.0)
        with pytest.raises(NameNotFound):
            stage.crash("a")
        clock.advance(1.0)
        await wait_registered(stage.names, "a")
    assert complaints == [ValueError, ValueError]  # that it has ended, that it is restarted
    loop.set_exception_handler(None)


def test_a_list_of_children_that_cannot_work_is_refused() -> None:
    """Two of one name, or a budget of a child's own."""
    stage = Stage()
    with pytest.raises(ValueError, match="same name"):
        Supervisor("top", [stage.spec("a"), stage.spec("a")])
    with pytest.raises(ValueError, match="budget"):
        Supervisor("top", [stage.spec("a", limits=ROUND)])


async def test_a_supervisor_runs_once() -> None:
    """A restart makes a new one."""
    supervisor = Supervisor("top", [])
    async with running(supervisor):
        pass
    async with running(supervisor) as run:
        assert isinstance(run.exit, Raised)
        assert "has run already" in str(run.exit.error)
