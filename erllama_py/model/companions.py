"""The companions of a runtime's models: begun by the first reproducible request, given back when none has come for a
while.

A companion is a child beside its model, and never restarted by itself: after a crash the next request begins a new one.
It belongs to one run of its model's actor, which ends it before its own engine, so that nothing outlives the weights
and no second copy of them is loaded beside it. Requests hold it; when the last lets go of it the time runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from erllama_py.actors import ChildSpec, Clock, DynamicSupervisor, SupervisorClosed
from erllama_py.errors import ModelCrashed, ModelNotLoaded
from erllama_py.model.blame import Deaths
from erllama_py.model.board import ModelBoard
from erllama_py.model.companion import companion_config, companion_threads, grid_of
from erllama_py.model.lodger import Lodger


class Companion(Lodger):
    """One of them."""

    def __init__(self, model: ModelBoard, board: ModelBoard) -> None:
        super().__init__(model)
        self.board = board

    def __repr__(self) -> str:
        return f"<Companion of {self.board.model_id!r}, {self.calls} calls>"

    @property
    def is_over(self) -> bool:
        """See `Lodger`."""
        return self.board.is_closed


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
        deaths = Deaths(model)
        while True:
            await model.actor()
            deaths.begins()
            companion = self._by_id.get(model.model_id)
            if companion is None:
                companion = self._begin(model)
            elif companion.is_over or companion.model is not model:  # it is ending
                await companion.stopped()
                self._forget(companion)
                continue
            let_go = companion.hold(partial(self._give_back, companion))
            try:
                await companion.board.actor()
            except BaseException as error:
                let_go()
                ends = not isinstance(error, Exception)
                if ends or not (deaths.met(error) or isinstance(error, ModelNotLoaded | ModelCrashed)):
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
        companion = self._by_id[model.model_id] = Companion(model, board)
        model.accompany(board, companion.end)
        companion.begun(keeper, partial(self._forget, companion))
        return companion

    def _forget(self, companion: Companion) -> None:
        if self._by_id.get(companion.model.model_id) is companion:
            del self._by_id[companion.model.model_id]
            companion.model.accompany(None, None)

    async def _give_back(self, companion: Companion) -> None:
        board = companion.board
        await self._clock.sleep(board.config.scheduler.reproducible_idle_ms / 1000)
        board.close(partial(ModelNotLoaded, board.model_id))
        await self._save(board)
        await companion.give_back()
