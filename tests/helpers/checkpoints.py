"""Cancel or crash a task at its n-th checkpoint, for n = 1, 2 … until it gets through.

A checkpoint is a point at which the coroutine really gives way to the event loop. `at_each_checkpoint` runs a scenario
once for each: what the scenario wraps in `Strike.coroutine` is struck there, and the scenario then checks its
invariants. `quiet_loop` fails a block that leaves tasks or makes the event loop complain.
"""

from __future__ import annotations

import asyncio
import gc
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")

# More checkpoints than any scenario has: one that never gets through is a test gone wrong.
MOST = 200
# A test gone wrong shall fail rather than hang; no right one comes near.
GUARD_SECONDS = 10


class Strike:
    """One strike at checkpoint `at`: a cancellation, or `error` raised there. `struck` says whether it came to that."""

    def __init__(self, at: int, error: BaseException | None = None) -> None:
        self.at = at
        self.struck = False
        self._error = error
        self._seen = 0

    async def coroutine(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine`; to be the body of the task that is struck, as it is its `current_task` that is cancelled."""
        result: T = await self._step(coroutine)
        return result

    @types.coroutine
    def _step(self, coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        thrown: BaseException | None = None
        while True:
            try:
                waits_for = coroutine.send(None) if thrown is None else coroutine.throw(thrown)
            except StopIteration as end:
                value: T = end.value
                return value
            thrown = None
            self._seen += 1
            if self._seen == self.at:
                self.struck = True
                if self._error is not None:
                    thrown = self._error
                    continue
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                yield waits_for
            except BaseException as error:
                thrown = error


async def at_each_checkpoint(
    scenario: Callable[[Strike], Awaitable[None]], error: Callable[[], BaseException] | None = None
) -> int:
    """Run `scenario` with a strike at checkpoint 1, 2 … until one gets through; how many were struck."""
    for at in range(1, MOST):
        strike = Strike(at, error() if error is not None else None)
        async with quiet_loop():
            await scenario(strike)
        if not strike.struck:
            return at - 1
    raise AssertionError(f"still struck at checkpoint {MOST}")


@asynccontextmanager
async def quiet_loop() -> AsyncIterator[None]:
    """A block that must leave no task running and nothing for the loop's exception handler."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    before = asyncio.all_tasks()
    old_handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    try:
        async with asyncio.timeout(GUARD_SECONDS) as guard:
            yield
        assert not guard.expired(), "the test got stuck"
        await turns()
        # Unretrieved exceptions are only complained of when their task is collected.
        gc.collect(0)
        left = asyncio.all_tasks() - before
        assert not left, f"tasks left: {left}"
        assert not complaints, f"the event loop complained: {complaints}"
    finally:
        loop.set_exception_handler(old_handler)


async def turns(count: int = 10) -> None:
    """Let the event loop turn, so that everything that can go on without waiting has."""
    for _ in range(count):
        await asyncio.sleep(0)
