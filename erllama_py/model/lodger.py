"""What lives beside a model, over its weights, for as long as calls hold it: a companion, an embedder.

When the last call lets go of it the time runs, and then it is given back. Its owner says what takes how long.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from erllama_py.actors import Keeper, StopTimeout
from erllama_py.errors import ModelStuck
from erllama_py.model.board import ModelBoard


class Lodger(ABC):
    """One of them, from its begin to its end."""

    keeper: Keeper  # once it is begun

    def __init__(self, model: ModelBoard) -> None:
        self.model = model
        self.calls = 0  # that hold it
        self._timer: asyncio.Task[None] | None = None

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Whether it takes no calls any more."""

    def begun(self, keeper: Keeper, forget: Callable[[], None]) -> None:
        """It has begun. `forget` is called at its end; not where its thread hung: as long as it may have the weights,
        its model has it, and its supervisor its name. Who comes next finds it and waits: see `stopped`."""
        self.keeper = keeper

        def ended(_: object) -> None:
            self.stop_timer()
            if not keeper.child.alive and keeper.child.left_behind is None:
                forget()

        keeper.ended.add_done_callback(ended)

    def hold(self, give_back: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        """What lets go of it, to be called once; where that was the last call, `give_back` begins."""
        self.calls += 1
        self.stop_timer()

        def let_go() -> None:
            self.calls -= 1
            if not self.calls and not self.is_over:
                self._timer = asyncio.ensure_future(give_back())

        return let_go

    def stop_timer(self) -> None:
        """It is in use, or over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def end(self) -> None:
        """End it, and wait until its thread has let go of the weights, however long that takes."""
        self.keeper.request_stop()
        await asyncio.wait((self.keeper.ended,))
        if self.keeper.child.alive and (run := self.keeper.child.run) is not None:
            await asyncio.wait((run.task,))

    async def stopped(self) -> None:
        """Wait for the end of one that is over. Raises `ModelStuck` where its thread hangs."""
        try:
            await self.keeper.stop()
        except StopTimeout as timeout:
            raise ModelStuck(self.model.model_id) from timeout

    async def give_back(self) -> None:
        """Stop it. Where its thread hangs, its supervisor has said so."""
        with suppress(StopTimeout):
            await self.keeper.stop()
