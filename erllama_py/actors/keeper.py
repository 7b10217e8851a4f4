"""One incarnation of a child of a dynamic supervisor: start, watch, restart, stop, in a task of its own.

Owns the child's restart history. It is what `start_child` returns: a handle of this child alone, never of a later one
of the same name. Protocol: `started` gets None once the first run is ready, or the error of a first start that failed;
`ended` gets the exit when there will be no further run. Both are plain futures that never carry an exception. Before
`ended` is set, a child with nothing left to show (it was stopped, never started, returned, or is temporary) is removed
by its supervisor.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable

from erllama_py.actors.child import Child, ChildFailure, ChildState, FailureOutcome, failure_of, restart_is_due
from erllama_py.actors.clock import BudgetClock, Clock
from erllama_py.actors.errors import ActorEnded, RestartLimitReached
from erllama_py.actors.exits import Exit, Raised, Stopped
from erllama_py.actors.restart_budget import GiveUp, RestartAfter, RestartLimits, decide
from erllama_py.actors.running import Run, call_listener, outlast, wait_any


class Keeper:
    def __init__(
        self, supervisor: str, child: Child, limits: RestartLimits, clock: Clock, random: Callable[[], float],
        report: Callable[[ChildFailure], None], forget: Callable[[Keeper], None],
    ) -> None:  # fmt: skip
        loop = asyncio.get_running_loop()
        self.child = child
        self.started: asyncio.Future[BaseException | None] = loop.create_future()
        self.ended: asyncio.Future[Exit] = loop.create_future()
        self._supervisor = supervisor
        self._limits = limits
        self._clock, self._budget_clock = clock, BudgetClock(clock)
        self._random = random
        self._report = report
        self._forget = forget
        self._stop: asyncio.Future[None] = loop.create_future()
        self._history: tuple[float, ...] = ()
        self._given_up: GiveUp | None = None
        self._told: Exit | None = None  # how the run under way has ended, once that was reported
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The name in the tree."""
        return self.child.spec.name

    @property
    def state(self) -> ChildState:
        """What the child is doing."""
        return self.child.state

    @property
    def exit(self) -> Exit | None:
        """How it ended for good; None while it may still run."""
        return self.ended.result() if self.ended.done() else None

    async def stop(self) -> None:
        """Stop the child, whatever it is doing, and return when it and its name are gone. Allowed twice.

        One that has failed is taken out of the tree. Raises `StopTimeout` when the child had to be abandoned, and
        again while it still runs, kept as `failed`. Cancelling the caller does not cancel the stop.
        """
        self.request_stop()
        await asyncio.wait((self.ended,))
        if self.child.alive and self.child.left_behind is None:  # the keeper was cut short
            await self.child.stop()
        if self.child.left_behind is not None and self.child.alive:
            raise self.child.left_behind.with_traceback(None)
        self._forget(self)

    async def wait(self) -> Exit:
        """How the child ended for good: for one that was given up, `Raised(RestartLimitReached)`."""
        await asyncio.wait((self.ended,))
        return self.ended.result()

    def begin(self, context: contextvars.Context) -> None:
        """Start the keeper's task, in a copy of `context`."""
        name = f"keeper of {self.name}"
        self._task = asyncio.get_running_loop().create_task(self._keep(), name=name, context=context.copy())
        # A task that is cancelled before its first step never gets to its `finally`.
        self._task.add_done_callback(lambda task: self._end(Stopped()))

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
        except asyncio.CancelledError:
            await outlast(self._cut_short())
        finally:
            self._end(exit)

    async def _cut_short(self) -> None:
        """Without a grace period: end the child with this task."""
        run = self.child.run
        if self.child.alive and run is not None and self.child.left_behind is None:
            if not run.task.cancelling():  # a second cancellation would cut its clean-up short
                run.task.cancel()
            await wait_any(run.task, clock=self._clock, seconds=self.child.spec.stop_timeout)

    def _end(self, exit: Exit) -> None:
        """There will be no further run: wake all that wait for that."""
        if self.ended.done():
            return
        child = self.child
        # It still runs here only when the keeper's own task was cancelled.
        if child.alive and child.run is not None and child.left_behind is None:
            child.run.task.cancel()
            child.mark_ended("stopped")
        if child.left_behind is None and (child.state != "failed" or child.spec.restart == "temporary"):
            self._forget(self)
        error = exit.error if isinstance(exit, Raised) and not self._stop.done() else None
        call_listener(child.spec.on_ended, exit)
        if not self.started.done():
            self.started.set_result(error or ActorEnded(self.name, exit, last=True))
        self.ended.set_result(exit)

    async def _live(self) -> Exit:
        """Run after run; returns how the last one ended."""
        while True:
            self._budget_clock.stop()
            self._told = None
            exit = await self._run_once(self.child.begin(self._is_last))
            if self._stop.done() or not self.started.done() or self.child.left_behind is not None:
                return exit
            self._tell_end(exit)  # where it has changed since it was announced
            if not restart_is_due(self.child.spec, exit):
                return self._let_be(exit)
            failure = failure_of(self.name, exit)
            decision = self._given_up or self._decide()
            self._history = decision.history
            if isinstance(decision, GiveUp):
                return self._give_up(failure)
            self.child.mark_ended("backoff", failure)
            self._tell(failure, "restarting", decision.delay)
            await wait_any(self._stop, clock=self._clock, seconds=decision.delay)
            if self._stop.done():
                self.child.mark_ended("stopped")
                return Stopped()

    def _is_last(self, exit: Exit) -> bool:
        """Whether a run with this exit is the last: decided as it ends, so that the errors of open calls can report
        it. A failure is reported now: what its calls make of their errors comes after it."""
        if self._stop.done() or not self.started.done():
            return True
        self._tell_end(exit)
        if not restart_is_due(self.child.spec, exit):
            return True
        decision = self._decide()
        self._given_up = decision if isinstance(decision, GiveUp) else None
        return self._given_up is not None

    def _decide(self) -> RestartAfter | GiveUp:
        return decide(self._limits, self._history, self._budget_clock.now(), self._random())

    async def _run_once(self, run: Run) -> Exit:
        """One run, until it ends by itself or is stopped."""
        await wait_any(run.ready, run.ending, self._stop)
        self._budget_clock.go_on()
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
        limit = RestartLimitReached(self.name, len(self._history), self._limits.period)
        limit.__cause__ = failure
        return Raised(limit)

    def _tell_end(self, exit: Exit) -> None:
        if exit != self._told and (isinstance(exit, Raised) or restart_is_due(self.child.spec, exit)):
            self._told = exit
            self._tell(failure_of(self.name, exit), "ended")

    def _tell(self, error: BaseException, outcome: FailureOutcome, delay: float | None = None) -> None:
        self._report(ChildFailure(self._supervisor, self.name, error, self.child.restarts, outcome, delay))
