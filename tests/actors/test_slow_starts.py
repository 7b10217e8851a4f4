"""Restarts are counted in the time in which children run: one that starts slowly and fails is given up as one that
starts soon."""

from __future__ import annotations

import asyncio

import pytest
from helpers.checkpoints import quiet_loop
from helpers.clock import ManualClock
from helpers.players import Stage, running, until
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.actors import DynamicSupervisor, Raised, RestartLimitReached, RestartLimits, Supervisor
from erllama_py.actors.clock import BudgetClock

LIMITS = RestartLimits(intensity=3, period=60.0, backoff_first=1.0, backoff_factor=1.0, jitter=0.0)


async def start_slowly(stage: Stage, clock: ManualClock, number: int, *, fail: bool) -> None:
    """The restart with this number takes longer than the period."""
    await clock.sleeping(1.0)
    stage.close("init a")
    clock.advance(1.0)
    await until(lambda: stage.log.count("init a") == number + 1)
    clock.advance(100.0)
    if fail:
        stage.fail_init.add("a")
    stage.open("init a")


@pytest.mark.anyio
@pytest.mark.parametrize("fail", [True, False])
async def test_a_child_whose_restarts_take_longer_than_the_period_is_given_up(fail: bool) -> None:
    """Whether it fails in its start, or right after it."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        supervisor = DynamicSupervisor("crew", LIMITS, clock)
        async with running(supervisor):
            keeper = await supervisor.start_child(stage.spec("a"))
            stage.crash("a")
            for number in range(1, LIMITS.intensity + 1):
                await start_slowly(stage, clock, number, fail=fail)
                if not fail:
                    await until(lambda: keeper.state == "running")
                    stage.crash("a")
            exit = await keeper.wait()
            assert isinstance(exit, Raised)
            assert isinstance(exit.error, RestartLimitReached)
            assert stage.made["a"] == 1 + LIMITS.intensity


@pytest.mark.anyio
async def test_so_is_one_of_a_fixed_list() -> None:
    """Its supervisor gives up with it."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        async with running(Supervisor("top", [stage.spec("a")], limits=LIMITS, clock=clock)) as run:
            stage.crash("a")
            for number in range(1, LIMITS.intensity + 1):
                await start_slowly(stage, clock, number, fail=True)
            await asyncio.wait((run.task,))
        assert isinstance(run.exit, Raised)
        assert isinstance(run.exit.error, RestartLimitReached)


@pytest.mark.anyio
async def test_time_in_which_it_runs_is_forgiven_all_the_same() -> None:
    """One that runs for longer than the period between two crashes is never given up."""
    async with quiet_loop():
        stage, clock = Stage(), ManualClock()
        supervisor = DynamicSupervisor("crew", LIMITS, clock)
        async with running(supervisor):
            keeper = await supervisor.start_child(stage.spec("a"))
            for number in range(1, 3 * LIMITS.intensity):
                clock.advance(LIMITS.period)
                stage.crash("a")
                await start_slowly(stage, clock, number, fail=False)
                await until(lambda: keeper.state == "running")


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1000)), max_size=30))
def test_the_clock_of_a_budget_has_the_time_between_starts(passed: list[tuple[bool, float]]) -> None:
    """And never goes back."""
    clock, expected = ManualClock(0.0), 0.0
    budget = BudgetClock(clock)
    for starts, seconds in passed:
        if starts:
            budget.stop()
        clock.advance(seconds)
        expected += 0.0 if starts else seconds
        assert budget.now() == pytest.approx(expected, abs=1e-6)
        budget.go_on()
        assert budget.now() == pytest.approx(expected, abs=1e-6)
