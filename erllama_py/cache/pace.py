"""Work in steps, cut where the event loop is due, for whichever messages it is done.

`Pace` runs one work after the other for one actor, which takes no other message meanwhile. What the actor does beside
its messages, it does `alone`: so nothing changes between two steps of one work.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

from erllama_py.cache.steps import Steps

T = TypeVar("T")

AT_ONCE = 512  # steps before the loop turns: some 3 ms, or 10 beside busy threads


class Pace:
    """Counts the steps of all work that it runs since the loop turned."""

    def __init__(self) -> None:
        self._taken = 0
        self.alone = asyncio.Lock()  # held while work is done in steps, and by whoever changes what it looks at

    def __repr__(self) -> str:
        return f"<Pace, {self._taken} steps since the loop turned>"

    async def run(self, steps: Steps[T]) -> T:
        """Do it, and let the loop turn after each `AT_ONCE` steps."""
        async with self.alone:
            while True:
                try:
                    self._taken += next(steps)
                except StopIteration as end:
                    value: T = end.value
                    return value
                if self._taken >= AT_ONCE:
                    self._taken = 0
                    await asyncio.sleep(0)
