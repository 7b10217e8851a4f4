"""The tiers of one runtime by name: started and stopped as the application says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from erllama_py.actors import ActorEnded, ChildSpec, DynamicSupervisor, Keeper, StopTimeout, SupervisorClosed
from erllama_py.errors import InvalidOption, TierFailed, TierNotFound, TierStuck, TierTaken
from erllama_py.options.tiers import RAM_TIER, RamTier, TierSpec
from erllama_py.tiers.base import STUCK_SECONDS


class TierRegistry:
    """See the module. `branch` is the current supervisor, `child` describes the child of a tier in a directory.

    Which tiers there are is derived from their keepers: a caller may be gone before its tier is, and a tier that does
    not end outlives its supervisor.
    """

    def __init__(
        self, ram: RamTier, branch: Callable[[], DynamicSupervisor], child: Callable[[str, TierSpec], ChildSpec]
    ) -> None:
        self._branch, self._child = branch, child
        self._ram = ram
        self._held: dict[str, tuple[TierSpec, Keeper]] = {}

    def kinds(self) -> dict[str, str]:
        """The kind of each tier, by name."""
        return {RAM_TIER: self._ram.kind, **{name: spec.kind for name, (spec, _) in self._known().items()}}

    def _known(self) -> dict[str, tuple[TierSpec, Keeper]]:
        """Those that start, run, have failed, are being stopped, or do not end."""
        children = self._branch().child_names()
        for name, (_, keeper) in tuple(self._held.items()):
            if keeper.name not in children and not keeper.child.alive:
                del self._held[name]
        return self._held

    async def start(self, name: str, spec: TierSpec) -> None:
        """Start a tier; it can store rows then. Raises its own error, `TierTaken`, `TierFailed` and `TierStuck`."""
        held = self._known().get(name)
        if held is not None and held[1].child.left_behind is not None and not held[1].child.alive:
            await held[1].stop()  # it was not waited for any longer, and has ended since
        if name in self._known() or name == RAM_TIER:
            raise TierTaken(name, "a tier of this name runs already")
        branch = self._branch()
        try:
            keeper = branch.begin_child(self._child(name, spec))
            self._held[name] = spec, keeper
            async with asyncio.timeout(STUCK_SECONDS) as limit:
                await branch.wait_started(keeper)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise TierStuck(name, f"{spec.root} is not open after {STUCK_SECONDS:g} s", STUCK_SECONDS) from error
        except (ActorEnded, SupervisorClosed) as error:
            raise TierFailed(name, "it was stopped while it started") from error

    async def stop(self, name: str) -> None:
        """Stop a tier. Raises `TierNotFound`, and `TierStuck` where it does not end: then it stays taken."""
        if name == RAM_TIER:
            raise InvalidOption("name", f"the tier {RAM_TIER!r} ends with the runtime")
        if (held := self._known().get(name)) is None:
            raise TierNotFound(name, tuple(sorted(self.kinds())))
        try:
            await held[1].stop()
        except StopTimeout as timeout:
            raise TierStuck(name, "it does not end: a read or write hangs", 2 * timeout.seconds) from timeout
