"""The companions of a runtime's models: begun by the first reproducible request, given back when none has come for a
while.

A companion is a child beside its model, and never restarted by itself: after a crash the next request begins a new one.
It belongs to one run of its model's actor, which ends it before its own engine, so that nothing outlives the weights
and no second copy of them is loaded beside it. Requests hold it; when the last lets go of it the time runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from erllama_py.actors import ChildSpec, Clock, DynamicSupervisor, Keeper, StopTimeout, SupervisorClosed
from erllama_py.errors import ModelCrashed, ModelNotLoaded, ModelStuck
from erllama_py.model.board import ModelBoard
from erllama_py.model.companion import companion_config, companion_threads, grid_of


class Companion:
    """One of them, from its begin to its end; how many requests hold it."""

    def __init__(self, model: ModelBoard, board: ModelBoard, keeper: Keeper) -> None:
        self.model, self.board, self.keeper = model, board, keeper
        self.holders = 0
        self.timer: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Companion of {self.board.model_id!r}, {self.holders} holders>"

    async def end(self) -> None:
        """End it, and wait until its engine has let go of the weights, however long that takes."""
        self.keeper.request_stop()
        await asyncio.wait((self.keeper.ended,))
        if self.keeper.child.alive and (run := self.keeper.child.run) is not None:
            await asyncio.wait((run.task,))


class Companions:
    """See the module. `branch`, `child` and `save` are as those of `Registry`."""

    def __init__(
        self, branch: Callable[[], DynamicSupervisor], child: Callable[[ModelBoard], ChildSpec],
        save: Callable[[ModelBoard], Awaitable[None]], clock: Clock,
    ) -> None:  # fmt: skip
        self._branch, self._child, self._save, self._clock = branch, child, save, clock
        self._by_id: dict[str, Companion] = {}  # of the model: one that hangs outlives it, and keeps the name

    def __len__(self) -> int:
        return len(self._by_id)

    async def hold(self, model: ModelBoard) -> tuple[ModelBoard, Callable[[], None]]:
        """The board of a model's companion, once it takes requests, and what lets go of it: to be called once.

        Waits while the model, or its companion, loads. Raises what the companion's load raises, `ModelStuck` where the
        last one does not end, and as `ModelBoard.check` does when the model is gone.
        """
        while True:
            await model.actor()
            companion = self._by_id.get(model.model_id)
            if companion is None:
                companion = self._begin(model)
            elif companion.board.is_closed or companion.model is not model:  # it is ending
                try:
                    await companion.keeper.stop()
                except StopTimeout as timeout:
                    raise ModelStuck(model.model_id) from timeout
                self._forget(companion)
                continue
            let_go = self._held(companion)
            try:
                await companion.board.actor()
            except BaseException as error:
                let_go()
                if not isinstance(error, ModelNotLoaded | ModelCrashed):
                    raise
                continue  # it was ending, or its model was: not by this request, which has not reached it yet
            return companion.board, let_go

    def _begin(self, model: ModelBoard) -> Companion:
        facts, lent = model.facts, model.lent
        assert facts is not None
        assert lent is not None
        grid, threads = grid_of(facts), companion_threads(model.config, lent.prepared.threads)
        board = ModelBoard(
            model.model_id, companion_config(model.config, facts, grid, threads), None, lender=model, grid=grid
        )
        try:
            keeper = self._branch().begin_child(self._child(board))
        except SupervisorClosed:
            raise ModelNotLoaded(model.model_id) from None
        companion = self._by_id[model.model_id] = Companion(model, board, keeper)
        model.accompany(board, companion.end)
        keeper.ended.add_done_callback(lambda _: self._ended(companion))
        return companion

    def _ended(self, companion: Companion) -> None:
        if companion.timer is not None:
            companion.timer.cancel()
        if not companion.keeper.child.alive:  # else its engine hangs: as long as it has the weights, its model has it
            self._forget(companion)

    def _forget(self, companion: Companion) -> None:
        if self._by_id.get(companion.model.model_id) is companion:
            del self._by_id[companion.model.model_id]
            companion.model.accompany(None, None)

    def _held(self, companion: Companion) -> Callable[[], None]:
        companion.holders += 1
        if companion.timer is not None:
            companion.timer.cancel()
            companion.timer = None

        def let_go() -> None:
            companion.holders -= 1
            if not companion.holders and not companion.board.is_closed:
                companion.timer = asyncio.ensure_future(self._give_back(companion))

        return let_go

    async def _give_back(self, companion: Companion) -> None:
        board = companion.board
        await self._clock.sleep(board.config.scheduler.reproducible_idle_ms / 1000)
        board.close(partial(ModelNotLoaded, board.model_id))
        await self._save(board)
        with suppress(StopTimeout):  # its supervisor has said so
            await companion.keeper.stop()
