"""The tiers of one runtime by name: started and stopped as the application says."""

from __future__ import annotations

from collections.abc import Callable

from erllama_py.actors import ActorEnded, ChildSpec, DynamicSupervisor, StopTimeout
from erllama_py.actors import SupervisorClosed as Closed
from erllama_py.errors import InvalidOption, RuntimeClosed, TierFailed, TierNotFound, TierStuck, TierTaken
from erllama_py.options.runtime import RAM_TIER
from erllama_py.options.tiers import RamTier, TierSpec
from erllama_py.tiers.messages import tier_actor_name


class TierRegistry:
    """See the module. `branch` is the supervisor of now, `child` describes the child of a tier in a directory.

    Which tiers there are is derived from the supervisor's children: a caller may be gone before its tier is.
    """

    def __init__(
        self, ram: RamTier, branch: Callable[[], DynamicSupervisor], child: Callable[[str, TierSpec], ChildSpec]
    ) -> None:
        self._branch, self._child = branch, child
        self._specs: dict[str, RamTier | TierSpec] = {RAM_TIER: ram}

    def kinds(self) -> dict[str, str]:
        """The kind of each tier, by name."""
        return {name: spec.kind for name, spec in self._known().items()}

    def _known(self) -> dict[str, RamTier | TierSpec]:
        """Those that start, run, have failed, or are being stopped."""
        children = self._branch().child_names()
        known = {name: spec for name, spec in self._specs.items() if tier_actor_name(name) in children}
        return {RAM_TIER: self._specs[RAM_TIER], **known}

    async def start(self, name: str, spec: TierSpec) -> None:
        """Start a tier; it can store rows then. Raises its own error, `TierTaken`, `TierFailed` and `RuntimeClosed`."""
        if name in self._known():
            raise TierTaken(name, "a tier of this name runs already")
        self._specs[name] = spec
        try:
            await self._branch().start_child(self._child(name, spec))
        except Closed as error:
            raise RuntimeClosed from error
        except ActorEnded as error:
            raise TierFailed(name, "it was stopped while it started") from error

    async def stop(self, name: str) -> None:
        """Stop a tier. Raises `TierNotFound`, and `TierStuck` where it does not end: then it stays taken."""
        if name == RAM_TIER:
            raise InvalidOption("name", f"the tier {RAM_TIER!r} ends with the runtime")
        if name not in (known := self._known()):
            raise TierNotFound(name, tuple(sorted(known)))
        try:
            await self._branch().stop_child(tier_actor_name(name))
        except StopTimeout as timeout:
            raise TierStuck(name, "it does not end: a read or write hangs", 2 * timeout.seconds) from timeout
