"""What `runtime.supervise` takes and returns: a function under the tree, and the handle of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, get_args

from erllama_py.actors import Exit, Keeper, Raised, Restart, RestartLimits, StopTimeout
from erllama_py.actors import RestartLimitReached as BudgetSpent
from erllama_py.errors import InvalidOption, RestartLimitReached, SupervisedStuck
from erllama_py.options.check import convert, not_among, under

Limits = RestartLimits | Mapping[str, Any]


class Supervised:
    """A coroutine function that the tree runs, and restarts as its `restart` says.

    The handle is of this one alone: it never acts on another that has taken its name since.
    """

    def __init__(self, keeper: Keeper, check_loop: Callable[[], None]) -> None:
        self._keeper = keeper
        self._check_loop = check_loop

    def __repr__(self) -> str:
        return f"<Supervised {self.name!r} {self._keeper.state}>"

    @property
    def name(self) -> str:
        """The name that it has in the tree."""
        return self._keeper.name

    async def stop(self) -> None:
        """Cancel it, wait until it has ended, and take it out of the tree. Allowed twice.

        Raises `SupervisedStuck` when it does not end in time, and again as long as it runs: it stays in the tree.
        """
        self._check_loop()
        try:
            await self._keeper.stop()
        except StopTimeout as timeout:
            raise SupervisedStuck(self.name, 2 * timeout.seconds) from timeout

    async def wait(self) -> Exit:
        """How it ended for good: `Returned(value)`, `Raised(error)` or `Stopped()`.

        The error is a `RestartLimitReached` where it was restarted too often, and a `SupervisedStuck` where it had to
        be abandoned.
        """
        self._check_loop()
        exit = await self._keeper.wait()
        match exit:
            case Raised(BudgetSpent() as spent):
                limit = RestartLimitReached(self.name, spent.restarts, spent.period, spent.returned)
                limit.__cause__ = spent.__cause__
                return Raised(limit)
            case Raised(StopTimeout() as timeout):
                return Raised(SupervisedStuck(self.name, 2 * timeout.seconds))
        return exit


def parse_supervise(
    function: Callable[[], Awaitable[object]], restart: Restart, limits: Limits | None
) -> RestartLimits | None:
    """Check what `supervise` was given, apart from the name. Raises `InvalidOption`."""
    if not callable(function):
        raise InvalidOption("function", f"expected a coroutine function, not called yet, got {type(function).__name__}")
    if restart not in get_args(Restart):
        raise not_among("restart", get_args(Restart), restart)
    if limits is None:
        return None
    with under("limits"):
        return convert(limits, RestartLimits)
