"""A child as data, and one supervised place in a tree.

`ChildSpec` describes a child. `Child` is its place: it outlives its runs, owns the current `Run` and what
the tree shows of it, a `TreeNode`. Supervisors decide when it begins and stops; it decides nothing.

    starting → running → (stopping) → stopped | finished | failed, or backoff → starting …
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

from erllama_py.actors.clock import Clock
from erllama_py.actors.errors import ActorEnded, RestartLimitReached, StopTimeout
from erllama_py.actors.exits import Exit, Raised, Stopped, describe
from erllama_py.actors.restart_budget import RestartLimits
from erllama_py.actors.running import Future, Run, Runnable

Restart = Literal["permanent", "transient", "temporary"]
FailureOutcome = Literal["ended", "restarting", "gave_up", "abandoned"]
ChildState = Literal["starting", "running", "stopping", "backoff", "failed", "stopped", "finished"]


@dataclass(frozen=True)
class ChildSpec:
    """A child, described.

    `start` makes a new runnable for each run. `permanent` children are restarted however they end, `transient` ones
    when they fail, `temporary` ones never. `stop_timeout` is in seconds: how long a stop waits before it cancels, and
    again before it abandons the child; give supervisors `math.inf`, their children have deadlines of their own.
    A supervisor that is not `vital` is only marked failed when it gives up: its parent's budget stays untouched.
    `detail` gives a phrase for the tree while the child runs, None for nothing. For children of a dynamic supervisor:
    `limits` is a budget of the child's own; `on_ended` is called once, when there will be no further run, whatever the
    reason, and before those that wait for the child are woken.
    """

    name: str
    start: Callable[[], Runnable]
    restart: Restart = "permanent"
    stop_timeout: float = 5.0
    limits: RestartLimits | None = None
    vital: bool = True
    detail: Callable[[], str | None] = lambda: None
    on_ended: Callable[[Exit], object] = lambda exit: None


@dataclass(frozen=True)
class ChildFailure:
    """What a supervisor reports of a child that failed.

    `outcome`: it has ended, which is reported before its calls fail with that; then, once it is gone: it restarts in
    `delay` seconds; the supervisor gave up on it after `restarts` restarts (a temporary child: none were due); or it
    was abandoned because it did not end when stopped, and `error` is a `StopTimeout`.
    """

    supervisor: str
    name: str
    error: BaseException
    restarts: int
    outcome: FailureOutcome
    delay: float | None = None


@dataclass(frozen=True)
class TreeNode:
    """One supervisor or child at one moment, as data that prints as a tree; it holds no reference to what it shows.

    `state` is `"starting"`, `"running"`, `"backoff"` (it waits to be restarted), `"stopping"`, `"stopped"`, `"failed"`
    (it is not restarted any more) or `"finished"`. `uptime` is in seconds since it was last ready, None while it is not
    running; `restarts` counts since it was first started; `last_failure` is one line, None while there was none;
    `detail` is what the child itself reports.
    """

    name: str
    kind: str
    state: str
    restarts: int
    uptime: float | None
    last_failure: str | None
    detail: str | None = None
    children: tuple[TreeNode, ...] = ()

    def __str__(self) -> str:
        return "\n".join(_lines(self))


@runtime_checkable
class AnySupervisor(Runnable, Protocol):
    """A runnable that has a name and can show what is below it: both kinds of supervisor are."""

    name: str

    def snapshot(self) -> TreeNode:
        """The supervisor and all below it."""


class Child:
    """See the module's text. `hurry` is done when stops must skip the grace period."""

    def __init__(self, spec: ChildSpec, clock: Clock, hurry: Future) -> None:
        self.spec = spec
        self.state: ChildState = "starting"
        self.run: Run | None = None
        self.restarts = 0
        self.last_failure: str | None = None
        self.left_behind: StopTimeout | None = None
        self._clock = clock
        self._hurry = hurry
        self._ready_at: float | None = None

    @property
    def alive(self) -> bool:
        """Whether a run is under way."""
        return self.run is not None and not self.run.task.done()

    @property
    def to_be_stopped(self) -> bool:
        """Whether `stop` would change anything."""
        return self.state not in ("failed", "stopped", "finished")

    def begin(self, is_last: Callable[[Exit], bool] = lambda exit: False) -> Run:
        """Start a new run; a restart if it is not the first. `is_last`: see `Run`."""
        if self.run is not None:
            self.restarts += 1
        self.state = "starting"
        self.run = Run(self.spec.name, self.spec.start, is_last)
        return self.run

    def mark_running(self) -> None:
        """The run has said that it is ready."""
        self.state = "running"
        self._ready_at = self._clock.now()

    def mark_ended(self, state: ChildState, failure: BaseException | None = None) -> None:
        """There is no run now; `failure` is kept for the tree, as text: an error keeps its whole stack alive."""
        self.state = state
        self._ready_at = None
        if failure is not None:
            self.last_failure = describe(failure)

    async def stop(self) -> Exit:
        """End the run, asking first, in at most twice `stop_timeout`; returns how it ended.

        If it did not, it is abandoned: `failed`, with `left_behind` set. A failure that it announced before is then
        returned.
        """
        if self.run is None:
            self.mark_ended("stopped")
            return Stopped()
        self.state = "stopping"
        if await self.run.stop(self.spec.stop_timeout, self._clock, self._hurry):
            exit = self.run.exit or Stopped()
            self.mark_ended("stopped", exit.error if isinstance(exit, Raised) else None)
            return exit
        self.left_behind = StopTimeout(self.spec.name, self.spec.stop_timeout)
        self.mark_ended("failed", self.left_behind)
        announced = self.run.ending.result() if self.run.ending.done() else None
        if not isinstance(announced, Raised):
            return Raised(self.left_behind)
        self.left_behind.__cause__ = announced.error
        announced.error.add_note(str(self.left_behind))
        return announced

    def snapshot(self) -> TreeNode:
        """This place and all below it."""
        runnable = self.run.runnable if self.run is not None else None
        uptime = None if self._ready_at is None else self._clock.now() - self._ready_at
        kind = runnable.kind if runnable is not None else "child"
        detail = self.spec.detail() if self.state == "running" else None
        node = TreeNode(self.spec.name, kind, self.state, self.restarts, uptime, self.last_failure, detail)
        # To ask whether it is an `AnySupervisor` takes 25 µs, and there may be thousands of children.
        below = getattr(runnable, "snapshot", None)
        return node if below is None else replace(node, children=below().children)


def restart_is_due(spec: ChildSpec, exit: Exit) -> bool:
    """Whether a child that ended by itself is restarted."""
    if isinstance(exit, Raised) and isinstance(exit.error, RestartLimitReached) and not spec.vital:
        return False
    return spec.restart == "permanent" or (spec.restart == "transient" and isinstance(exit, Raised))


def failure_of(name: str, exit: Exit) -> BaseException:
    """The error to report for an end that should not have happened."""
    return exit.error if isinstance(exit, Raised) else ActorEnded(name, exit)


def _lines(node: TreeNode) -> Iterator[str]:
    yield _line(node)
    for number, child in enumerate(node.children, 1):
        last = number == len(node.children)
        branch, trunk = ("└── ", "    ") if last else ("├── ", "│   ")
        first, *rest = _lines(child)
        yield branch + first
        for line in rest:
            yield trunk + line


def _line(node: TreeNode) -> str:
    facts = [f"{node.name} ({node.kind}) {node.state}"]
    if node.uptime is not None:
        facts.append(f"up {node.uptime:.1f} s")
    if node.restarts:
        facts.append(f"{node.restarts} restart{'s' if node.restarts > 1 else ''}")
    if node.detail is not None:
        facts.append(node.detail)
    if node.last_failure is not None:
        facts.append(f"last failure {node.last_failure}")
    return ", ".join(facts)
