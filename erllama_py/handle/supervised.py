"""What `runtime.supervise` returns: the handle of one function under the tree."""

from __future__ import annotations

from erllama_py.actors import DynamicSupervisor, Exit, NameNotFound, Stopped


class Supervised:
    """A coroutine function that the tree runs, and restarts as it was told to."""

    def __init__(self, name: str, branch: DynamicSupervisor) -> None:
        self.name = name
        self._branch = branch

    async def stop(self) -> None:
        """Stop it and take it out of the tree. Allowed twice."""
        try:
            await self._branch.stop_child(self.name)
        except NameNotFound:
            return

    async def wait(self) -> Exit:
        """How it ended for good: `Returned(value)`, `Raised(error)` or `Stopped()`."""
        try:
            return await self._branch.wait_child(self.name)
        except NameNotFound:  # only what was stopped is forgotten
            return Stopped()
