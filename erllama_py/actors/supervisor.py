"""A supervisor of a fixed list of children, started in order and stopped in reverse.

Owns its children's places and one restart budget for all of them. A `Runnable` itself, so that trees nest. Protocol:
a failing first start stops what was started and is the supervisor's own failure; a later failure restarts the
children that the strategy names, after a backoff; over the limit, all children are stopped and the supervisor fails
with `RestartLimitReached`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from erllama_py.actors.child import Child, ChildFailure, ChildSpec, failure_of, restart_is_due
from erllama_py.actors.clock import BudgetClock, Clock
from erllama_py.actors.errors import RestartLimitReached
from erllama_py.actors.exits import Exit, Raised
from erllama_py.actors.restart_budget import GiveUp, RestartLimits, Strategy, affected_children, decide
from erllama_py.actors.running import Future, wait_any
from erllama_py.actors.supervising import Listener, SupervisorBase


class Supervisor(SupervisorBase):
    """See the module's text. `on_failure` gets each failure and its outcome; `random` is in `[0, 1)`."""

    def __init__(
        self, name: str, children: Sequence[ChildSpec], strategy: Strategy = "one_for_one",
        limits: RestartLimits | None = None, clock: Clock | None = None, random: Callable[[], float] | None = None,
        on_failure: Listener | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name, limits, clock, random, on_failure)
        self._specs = {spec.name: spec for spec in children}
        if len(self._specs) < len(children):
            raise ValueError(f"two children of {name!r} have the same name")
        if any(spec.limits is not None for spec in children):
            raise ValueError(f"the children of {name!r} share its budget: give limits to the supervisor")
        self._strategy: Strategy = strategy
        self._children: dict[str, Child] = {}
        self._due: dict[str, float] = {}  # children that wait for their restart, and when it is
        self._history: tuple[float, ...] = ()
        self._budget_clock = BudgetClock(self._clock)

    async def _work(self, ready: Callable[[], None]) -> None:
        assert self._stop is not None
        assert self._hurry is not None
        self._children = {name: Child(spec, self._clock, self._hurry) for name, spec in self._specs.items()}
        for child in self._children.values():
            exit = await self._start(child, self._stop)
            if self._is_stopping():
                return
            if exit is not None:
                failure = failure_of(child.spec.name, exit)
                child.mark_ended("failed", failure)
                raise failure
        self._mark_ready(ready)
        while not self._is_stopping():
            await self._turn(self._stop)

    async def _turn(self, stop: Future) -> None:
        """Take one ending; else do one restart that is due; else wait for something to happen."""
        endings: list[Future] = []
        for child in self._children.values():
            if child.state == "running" and child.run is not None:
                if child.run.ending.done():
                    await self._take_end(child, await self._stop_child(child))
                    return
                endings.append(child.run.ending)
        if not self._due:
            await wait_any(stop, *endings)
            return
        name = min((name for name in self._children if name in self._due), key=self._due.__getitem__)
        delay = self._due[name] - self._clock.now()
        if delay > 0:
            await wait_any(stop, *endings, clock=self._clock, seconds=delay)
            return
        del self._due[name]
        exit = await self._start(self._children[name], stop)
        if exit is not None and not self._is_stopping():
            await self._take_end(self._children[name], exit)

    async def _start(self, child: Child, stop: Future) -> Exit | None:
        """Start a child and wait until it is ready; returns how it ended, if it ended first."""
        self._budget_clock.stop()
        run = child.begin()
        await wait_any(run.ready, run.ending, stop)
        self._budget_clock.go_on()
        if run.ready.done():
            child.mark_running()
            return None
        return await self._stop_child(child)

    async def _take_end(self, child: Child, exit: Exit) -> None:
        """A child has ended by itself: leave it, restart what the strategy names, or give up."""
        name, restarts = child.spec.name, child.restarts
        if child.left_behind is not None:
            return
        failure = failure_of(name, exit)
        if isinstance(exit, Raised) or restart_is_due(child.spec, exit):
            self._report(ChildFailure(self.name, name, failure, restarts, "ended"))
        if not restart_is_due(child.spec, exit):
            if isinstance(exit, Raised):
                child.mark_ended("failed", failure)
                self._report(ChildFailure(self.name, name, failure, restarts, "gave_up"))
            else:
                child.mark_ended("finished")
            return
        child.mark_ended("failed", failure)
        now = self._clock.now()
        decision = decide(self._limits, self._history, self._budget_clock.now(), self._random())
        if isinstance(decision, GiveUp):
            self._report(ChildFailure(self.name, name, failure, restarts, "gave_up"))
            raise RestartLimitReached(name, len(decision.history), self._limits.period) from failure
        self._history = decision.history
        self._report(ChildFailure(self.name, name, failure, restarts, "restarting", decision.delay))
        for affected in reversed(affected_children(self._strategy, tuple(self._children), name)):
            await self._take_down(self._children[affected], now + decision.delay)

    async def _take_down(self, child: Child, due: float) -> None:
        """Stop a child if it runs, and plan its restart. A transient child that had finished comes back too: what it
        depended on is new. Temporary children do not, nor does one that was abandoned: it still holds what a second one
        would need."""
        if child.to_be_stopped:
            await self._stop_child(child)
        if child.left_behind is None and child.spec.restart != "temporary":
            child.mark_ended("backoff")
            self._due[child.spec.name] = due

    async def _stop_child(self, child: Child) -> Exit:
        exit = await child.stop()
        if child.left_behind is not None:
            self._report(ChildFailure(self.name, child.spec.name, child.left_behind, child.restarts, "abandoned"))
        return exit

    async def _stop_all(self) -> None:
        try:
            for child in reversed(self._children.values()):
                if child.to_be_stopped:
                    await self._stop_child(child)
        except asyncio.CancelledError:
            for child in self._children.values():
                if child.run is not None:
                    child.run.task.cancel()
            raise

    def _places(self) -> Sequence[Child]:
        return tuple(self._children.values())
