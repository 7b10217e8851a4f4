"""A supervisor whose children are added and removed by name, each restarted independently.

Owns the keepers of its children, one for each name. Protocol: `start_child` returns when the child is ready, or raises
the child's own error; later failures restart that child alone, within its own budget; over it, the child is kept as
`failed`, reported, and the others keep running. One that ended well, or is temporary, is removed; its `Keeper` still
has the exit. No child's start or stop waits for another's.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence

from erllama_py.actors.child import Child, ChildSpec
from erllama_py.actors.clock import Clock
from erllama_py.actors.errors import ActorEnded, NameNotFound, NameTaken, SupervisorClosed
from erllama_py.actors.keeper import Keeper
from erllama_py.actors.restart_budget import RestartLimits
from erllama_py.actors.running import settle
from erllama_py.actors.supervising import Listener, SupervisorBase


class DynamicSupervisor(SupervisorBase):
    """See the module's text.

    `limits` is the budget of each child that brings none of its own. Children run in the context variables of the
    supervisor, not of the caller that starts them. `on_failure` and `random`: see `Supervisor`.
    """

    kind = "dynamic supervisor"

    def __init__(
        self, name: str, limits: RestartLimits | None = None, clock: Clock | None = None,
        random: Callable[[], float] | None = None, on_failure: Listener | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name, limits, clock, random, on_failure)
        self._keepers: dict[str, Keeper] = {}
        self._context = contextvars.copy_context()

    async def start_child(self, spec: ChildSpec) -> Keeper:
        """Start a child and wait until it is ready; returns the handle of this child alone, also if another takes its
        name later.

        Raises `NameTaken` at once while the name is in use, also by a child that failed and was not taken out;
        `SupervisorClosed`; `ActorEnded` when the child is stopped while it starts; and the child's own error, as it is,
        when its start fails: then it is gone and not restarted. Cancelling the caller undoes the start: it waits until
        the child is gone.
        """
        keeper = self.begin_child(spec)
        await self.wait_started(keeper)
        return keeper

    async def wait_started(self, keeper: Keeper) -> None:
        """Return when a child that was begun is ready. Raises as `start_child` does."""
        try:
            await asyncio.wait((keeper.started,))
        except asyncio.CancelledError:
            keeper.request_stop()
            await settle(keeper.ended)
            raise
        error = keeper.started.result()
        if isinstance(error, ActorEnded) and self._is_stopping():
            raise SupervisorClosed(self.name) from error
        if error is not None:
            raise error

    def begin_child(self, spec: ChildSpec) -> Keeper:
        """`start_child` without the wait: see `wait_started`. Raises `NameTaken` and `SupervisorClosed`."""
        if self._hurry is None or self._is_stopping():
            raise SupervisorClosed(self.name)
        if spec.name in self._keepers:
            raise NameTaken(spec.name)
        child = Child(spec, self._clock, self._hurry)
        limits = spec.limits or self._limits
        keeper = Keeper(self.name, child, limits, self._clock, self._random, self._report, self._forget)
        self._keepers[spec.name] = keeper
        keeper.begin(self._context)
        return keeper

    def child(self, name: str) -> Keeper:
        """The child that has this name now. Raises `NameNotFound`."""
        keeper = self._keepers.get(name)
        if keeper is None:
            raise NameNotFound(name)
        return keeper

    def child_names(self) -> tuple[str, ...]:
        """The names in use, in order of their start."""
        return tuple(self._keepers)

    async def _work(self, ready: Callable[[], None]) -> None:
        assert self._stop is not None
        self._context = contextvars.copy_context()
        self._mark_ready(ready)
        await asyncio.wait((self._stop,))

    async def _stop_all(self) -> None:
        keepers = tuple(self._keepers.values())
        for keeper in keepers:
            keeper.request_stop()
        try:
            for keeper in keepers:
                await asyncio.wait((keeper.ended,))
        except asyncio.CancelledError:
            for keeper in keepers:
                keeper.cancel()
            raise

    def _places(self) -> Sequence[Child]:
        return tuple(keeper.child for keeper in self._keepers.values())

    def _forget(self, keeper: Keeper) -> None:
        if self._keepers.get(keeper.name) is keeper:
            del self._keepers[keeper.name]
