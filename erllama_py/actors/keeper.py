"""The life of one child of a dynamic supervisor: start, watch, restart, stop, in a task of its own.

Owns the child's restart history. Protocol: `started` gets None once the first run is ready, or the error of a first
start that failed; `ended` gets the exit when there will be no further run. Both are plain futures that never carry an
exception. Before `ended` is set, a child that leaves nothing to look at (stopped, or never started) is forgotten.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Literal

from erllama_py.actors.child import Child, ChildFailure, failure_of, restart_is_due
from erllama_py.actors.clock import Clock
from erllama_py.actors.errors import ActorEnded, RestartLimitReached
from erllama_py.actors.exits import Exit, Raised, Stopped
from erllama_py.actors.restart_budget import GiveUp, RestartLimits, decide
from erllama_py.actors.running import Run, wait_any


class Keeper:
    """See the module's text."""

    def __init__(
        self,
        supervisor: str,
        child: Child,
        limits: RestartLimits,
        clock: Clock,
        random: Callable[[], float],
        report: Callable[[ChildFailure], None],
        forget: Callable[[Keeper], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.child = child
        self.started: asyncio.Future[BaseException | None] = loop.create_future()
        self.ended: asyncio.Future[Exit] = loop.create_future()
        self._supervisor = supervisor
        self._limits = limits
        self._clock = clock
        self._random = random
        self._report = report
        self._forget = forget
        self._stop: asyncio.Future[None] = loop.create_future()
        self._history: tuple[float, ...] = ()
        self._task: asyncio.Task[None] | None = None

    def begin(self, context: contextvars.Context) -> None:
        """Start the life, in a copy of `context`."""
        name = f"keeper of {self.child.spec.name}"
        self._task = asyncio.get_running_loop().create_task(self._keep(), name=name, context=context.copy())

    def request_stop(self) -> None:
        """End the child; `ended` says when that is done."""
        if not self._stop.done():
            self._stop.set_result(None)

    def cancel(self) -> None:
        """End without waiting for the child."""
        if self._task is not None:
            self._task.cancel()

    async def _keep(self) -> None:
        exit: Exit = Stopped()
        try:
            exit = await self._live()
        finally:
            # Reached while the child still runs only when this task was cancelled.
            if self.child.alive and self.child.run is not None and self.child.left_behind is None:
                self.child.run.task.cancel()
            if self.child.left_behind is None and (self._stop.done() or not self.started.done()):
                self._forget(self)
            if not self.started.done():
                own = exit.error if isinstance(exit, Raised) and not self._stop.done() else None
                self.started.set_result(own or ActorEnded(self.child.spec.name, exit))
            self.ended.set_result(exit)

    async def _live(self) -> Exit:
        """Run after run; how the last one ended."""
        while True:
            exit = await self._run_once(self.child.begin())
            if self._stop.done() or not self.started.done() or self.child.left_behind is not None:
                return exit
            if not restart_is_due(self.child.spec.restart, exit):
                return self._let_be(exit)
            failure = failure_of(self.child.spec.name, exit)
            decision = decide(self._limits, self._history, self._clock.now(), self._random())
            self._history = decision.history
            if isinstance(decision, GiveUp):
                return self._give_up(failure)
            self.child.mark_ended("backoff", failure)
            self._tell(failure, "restarting", decision.delay)
            await wait_any(self._stop, clock=self._clock, seconds=decision.delay)
            if self._stop.done():
                self.child.mark_ended("stopped")
                return Stopped()

    async def _run_once(self, run: Run) -> Exit:
        """One run, to its end, its own or the one that was asked for."""
        await wait_any(run.ready, run.ending, self._stop)
        if run.ready.done():
            self.child.mark_running()
            if not self.started.done():
                self.started.set_result(None)
            await wait_any(run.ending, self._stop)
        exit = await self.child.stop()
        if self.child.left_behind is not None:
            self._tell(self.child.left_behind, "abandoned")
        return exit

    def _let_be(self, exit: Exit) -> Exit:
        if isinstance(exit, Raised):
            self.child.mark_ended("failed", exit.error)
            self._tell(exit.error, "gave_up")
        else:
            self.child.mark_ended("finished")
        return exit

    def _give_up(self, failure: BaseException) -> Exit:
        self.child.mark_ended("failed", failure)
        self._tell(failure, "gave_up")
        limit = RestartLimitReached(self.child.spec.name, len(self._history), self._limits.period)
        limit.__cause__ = failure
        return Raised(limit)

    def _tell(
        self, error: BaseException, outcome: Literal["restarting", "gave_up", "abandoned"], delay: float | None = None
    ) -> None:
        name, restarts = self.child.spec.name, self.child.restarts
        self._report(ChildFailure(self._supervisor, name, error, restarts, outcome, delay))
