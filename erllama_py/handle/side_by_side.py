"""Work of one call that waits for several things: within a deadline, or a few side by side, all or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from erllama_py.errors import DeadlinePassed

T = TypeVar("T")


async def within(deadline: float | None, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives, within so many seconds. Raises `DeadlinePassed`."""
    if deadline is None:
        return await work
    try:
        async with asyncio.timeout(deadline) as timeout:
            return await work
    except TimeoutError:
        if not timeout.expired():
            raise
        raise DeadlinePassed(f"no result within {deadline:g} s", deadline) from None


async def of_each(items: Iterable[int], work: Callable[[int], Awaitable[T]], at_once: int) -> dict[int, T]:
    """What `work` gives for each of the items, at most so many at a time: the queue is for others too. When one fails,
    the others are cancelled, and its error is that of all."""
    left, done = iter(items), dict[int, T]()

    async def some() -> None:
        for item in left:
            done[item] = await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(some())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return done
