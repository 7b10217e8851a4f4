"""What both kinds of supervisor share: their life, and how they report.

Owns the two signals of a supervisor's life: `stop` (end in good order) and `hurry` (set when the supervisor is
cancelled: children that are being stopped are cancelled now, not after their deadline). The frame of `run` is here,
so that both kinds end all their children on every path out.
"""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import Callable, Sequence

from erllama_py.actors.child import Child, ChildFailure, ChildState, TreeNode
from erllama_py.actors.clock import Clock, MonotonicClock
from erllama_py.actors.exits import Exit, Raised, Stopped
from erllama_py.actors.restart_budget import RestartLimits
from erllama_py.actors.running import Future, call_listener, ended_by_cancel, outlast

Listener = Callable[[ChildFailure], None]


class SupervisorBase:
    """See the module's text. It runs once; its parent makes a new one for each restart."""

    kind = "supervisor"

    def __init__(
        self, name: str, limits: RestartLimits | None, clock: Clock | None, random: Callable[[], float] | None,
        on_failure: Listener | None,
    ) -> None:  # fmt: skip
        self.name = name
        self._limits = limits or RestartLimits()
        self._clock = clock or MonotonicClock()
        self._random = random or random_module.random
        self._on_failure = on_failure
        self._state: ChildState = "stopped"
        self._ready_at: float | None = None
        self._stop: Future | None = None
        self._hurry: Future | None = None

    async def run(self, ready: Callable[[], None], ending: Callable[[Exit], bool]) -> Exit:
        """Live until stopped, or until the kind of supervisor gives up; all children have ended when it returns."""
        if self._stop is not None:
            raise RuntimeError(f"the supervisor {self.name!r} has run already")
        loop = asyncio.get_running_loop()
        self._stop, self._hurry = loop.create_future(), loop.create_future()
        self._state = "starting"
        exit: Exit = Stopped()
        try:
            await self._work(ready)
        except asyncio.CancelledError as error:
            self._make_haste()
            exit = ended_by_cancel(error)
        except Exception as error:
            exit = Raised(error)
        self._state = "stopping"
        ending(exit)
        # This also stops a child that is being started just now: no child may be added from here on.
        self.request_stop()
        try:
            await outlast(self._stop_all(), self._make_haste)
        finally:
            self._state = "failed" if isinstance(exit, Raised) else "stopped"
            self._ready_at = None
        return exit

    def request_stop(self) -> None:
        """End all children, then end."""
        if self._stop is not None and not self._stop.done():
            self._stop.set_result(None)

    def snapshot(self) -> TreeNode:
        """The supervisor and all below it."""
        uptime = None if self._ready_at is None else self._clock.now() - self._ready_at
        children = tuple(child.snapshot() for child in self._places())
        return TreeNode(self.name, self.kind, self._state, 0, uptime, None, children=children)

    def __repr__(self) -> str:
        states = ", ".join(f"{child.spec.name} {child.state}" for child in self._places())
        return f"<{type(self).__name__} {self.name!r} {self._state}: {states or 'no children'}>"

    async def _work(self, ready: Callable[[], None]) -> None:
        """Until stopped: start, watch, restart."""
        raise NotImplementedError

    async def _stop_all(self) -> None:
        """End all children; cancelled only when that is not waited for any more."""
        raise NotImplementedError

    def _places(self) -> Sequence[Child]:
        raise NotImplementedError

    def _mark_ready(self, ready: Callable[[], None]) -> None:
        self._state = "running"
        self._ready_at = self._clock.now()
        ready()

    def _make_haste(self) -> None:
        if self._hurry is not None and not self._hurry.done():
            self._hurry.set_result(None)

    def _report(self, failure: ChildFailure) -> None:
        if self._on_failure is not None:
            call_listener(self._on_failure, failure)

    def _is_stopping(self) -> bool:
        return self._stop is None or self._stop.done()
