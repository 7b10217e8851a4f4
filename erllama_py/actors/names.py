"""The registry: which actor has which name right now.

Owns the table of names and its watchers. An actor's runner registers it before `init` (so that messages can wait)
and unregisters it after `terminate`; a name is therefore free before its owner's restart begins. All methods
belong to one event loop, that of `home`: what reaches an actor by name from elsewhere is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from erllama_py.actors.errors import NameNotFound, NameTaken
from erllama_py.actors.home import Home
from erllama_py.actors.ref import ActorRef
from erllama_py.actors.running import call_listener


@dataclass(frozen=True)
class NameChange:
    """`name` now belongs to `ref`, or to no actor."""

    name: str
    ref: ActorRef[Any] | None


class Names:
    """See the module's text. Iterating gives the names in order of registration."""

    def __init__(self, home: Home | None = None) -> None:
        self.home = home or Home()
        self._refs: dict[str, ActorRef[Any]] = {}
        self._watchers: dict[object, Callable[[NameChange], None]] = {}

    def register(self, name: str, ref: ActorRef[Any]) -> None:
        """Give `name` to `ref`. Raises `NameTaken`."""
        if name in self._refs:
            raise NameTaken(name)
        self._refs[name] = ref
        self._tell(NameChange(name, ref))

    def unregister(self, name: str, ref: ActorRef[Any]) -> None:
        """Free `name` if it is `ref`'s; without effect otherwise."""
        if self._refs.get(name) is ref:
            del self._refs[name]
            self._tell(NameChange(name, None))

    def whereis(self, name: str) -> ActorRef[Any] | None:
        """The actor registered under this name now."""
        return self._refs.get(name)

    async def call(self, name: str, message: Any, timeout: float | None = None) -> Any:
        """`ActorRef.call` by name. Raises `NameNotFound` too."""
        return await self._ref(name).call(message, timeout)

    def cast(self, name: str, message: Any, urgent: bool = False, bounded: bool = True) -> None:
        """`ActorRef.cast` by name. Raises `NameNotFound` too."""
        self._ref(name).cast(message, urgent, bounded)

    def subscribe(self, callback: Callable[[NameChange], None]) -> Callable[[], None]:
        """Call back at every change until the returned function is called.

        The callback runs inside the change: it must be quick. An error in it goes to the loop's exception handler.
        """
        key = object()
        self._watchers[key] = callback

        def unsubscribe() -> None:
            self._watchers.pop(key, None)

        return unsubscribe

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._refs))

    def __len__(self) -> int:
        return len(self._refs)

    def __contains__(self, name: object) -> bool:
        return name in self._refs

    def __repr__(self) -> str:
        return f"<Names {', '.join(self._refs) or 'none'}>"

    def _ref(self, name: str) -> ActorRef[Any]:
        self.home.check()
        ref = self._refs.get(name)
        if ref is None:
            raise NameNotFound(name)
        return ref

    def _tell(self, change: NameChange) -> None:
        for watcher in tuple(self._watchers.values()):
            call_listener(watcher, change)
