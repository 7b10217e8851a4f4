"""The tiers of one runtime by name: started and stopped as the application says."""

from __future__ import annotations

from collections.abc import Callable

from erllama_py.actors import ActorEnded, ChildSpec, DynamicSupervisor, NameNotFound, NameTaken, StopTimeout
from erllama_py.actors import SupervisorClosed as Closed
from erllama_py.errors import InvalidOption, RuntimeClosed, TierFailed, TierNotFound, TierTaken
from erllama_py.options.runtime import RAM_TIER
from erllama_py.options.tiers import RamTier, TierSpec
from erllama_py.tiers.messages import tier_actor_name


class TierRegistry:
    """See the module. `branch` is the supervisor of now, `child` describes the child of a tier in a directory."""

    def __init__(
        self, ram: RamTier, branch: Callable[[], DynamicSupervisor], child: Callable[[str, TierSpec], ChildSpec]
    ) -> None:
        self._branch, self._child = branch, child
        self._specs: dict[str, RamTier | TierSpec] = {RAM_TIER: ram}

    def kinds(self) -> dict[str, str]:
        """The kind of each tier, by name."""
        return {name: spec.kind for name, spec in self._specs.items()}

    async def start(self, name: str, spec: TierSpec) -> None:
        """Start a tier; it can store rows then. Raises its own error, `TierTaken`, `TierFailed` and `RuntimeClosed`."""
        if name in self._specs:
            raise TierTaken(name, "a tier of this name runs already")
        self._specs[name] = spec
        try:
            await self._branch().start_child(self._child(name, spec))
        except BaseException as error:
            self._forget(name, spec)
            match error:
                case Closed():
                    raise RuntimeClosed from error
                case ActorEnded():
                    raise TierFailed(name, "it was stopped while it started") from error
                case NameTaken():
                    raise TierTaken(name, "one of this name has failed or does not end: stop it first") from error
            raise

    async def stop(self, name: str) -> None:
        """Stop a tier. Raises `TierNotFound`, and `TierFailed` where it does not end: then it stays taken."""
        if name == RAM_TIER:
            raise InvalidOption("id", f"the tier {RAM_TIER!r} ends with the runtime")
        spec = self._specs.get(name)
        if spec is None:
            raise TierNotFound(name, tuple(sorted(self._specs)))
        try:
            await self._branch().stop_child(tier_actor_name(name))
        except StopTimeout as timeout:
            raise TierFailed(name, "it does not end: a read or write hangs") from timeout
        except NameNotFound:  # it is gone already
            pass
        self._forget(name, spec)

    def _forget(self, name: str, spec: RamTier | TierSpec) -> None:
        if self._specs.get(name) is spec:
            del self._specs[name]
