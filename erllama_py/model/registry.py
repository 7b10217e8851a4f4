"""The models of one runtime by id: loads and unloads, in any order.

Owns the boards, one for each load, and their keepers. An id is free when its keeper has ended and everything is
released: not while a load, an unload or an engine that does not end still holds the memory. An unload belongs to no
caller: once requested it goes on, and all its callers wait for the same end.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from erllama_py.actors import ActorEnded, ChildSpec, DynamicSupervisor, Keeper, StopTimeout, SupervisorClosed
from erllama_py.errors import AlreadyLoaded, ErllamaError, ModelNotLoaded, ModelStuck, RuntimeClosed
from erllama_py.model.board import ModelBoard
from erllama_py.options.model import ModelConfig
from erllama_py.results import LoadProgress


class Registry:
    """See the module. `branch` is the current supervisor, `child` describes the child of a board, `save` saves what a
    model holds, in bounded time."""

    def __init__(
        self, branch: Callable[[], DynamicSupervisor], child: Callable[[ModelBoard], ChildSpec],
        save: Callable[[ModelBoard], Awaitable[None]],
    ) -> None:  # fmt: skip
        self._branch, self._child, self._save = branch, child, save
        self._boards: dict[str, ModelBoard] = {}
        self._keepers: dict[ModelBoard, Keeper] = {}
        self._ends: dict[ModelBoard, asyncio.Task[None]] = {}
        self._ids = itertools.count(1)

    def __len__(self) -> int:
        return len(self._boards)

    def __iter__(self) -> Iterator[ModelBoard]:
        """In the order of loading."""
        return iter(tuple(self._boards.values()))

    def get(self, model_id: str) -> ModelBoard:
        """The load that has this id now. Raises `ModelNotLoaded`."""
        board = self._boards.get(model_id)
        if board is None:
            raise ModelNotLoaded(model_id)
        return board

    def new_id(self) -> str:
        """An id that no model has."""
        return next(name for n in self._ids if (name := f"model_{n}") not in self._boards)

    def check_free(self, model_id: str | None) -> None:
        """Raises `AlreadyLoaded` for an id that a load would refuse, before anything is brought for it."""
        if model_id is not None and self._is_taken(self._boards.get(model_id)):
            raise AlreadyLoaded(model_id)

    async def load(
        self, model_id: str, config: ModelConfig, on_progress: Callable[[LoadProgress], object] | None
    ) -> ModelBoard:
        """Load a model. Cancelling the caller undoes it.

        Raises the load's own error, `AlreadyLoaded`, `ModelStuck` where the last model of this id still holds its
        memory, `ModelNotLoaded` when it is unloaded meanwhile, or ends with its supervisor.
        """
        while (held := self._boards.get(model_id)) is not None:
            if self._is_taken(held):
                raise AlreadyLoaded(model_id)
            await self._take_down(held)
        board = self._boards[model_id] = ModelBoard(model_id, config, on_progress)
        try:
            branch = self._branch()
            self._keepers[board] = branch.begin_child(self._child(board))
            await branch.wait_started(self._keepers[board])
        except BaseException as error:
            board.close(partial(ModelNotLoaded, model_id))
            keeper = self._keepers.get(board)
            if keeper is None or keeper.child.left_behind is None:
                self._forget(board)
            match error:
                case ActorEnded() | SupervisorClosed():
                    raise ModelNotLoaded(model_id) from None
                case Exception() if not isinstance(error, ErllamaError):
                    raise board.load_error(error) from error
            raise
        return board

    async def unload(self, board: ModelBoard) -> None:
        """Save what is not saved, and end a model. Raises `ModelNotLoaded` when it is gone already, `ModelStuck`."""
        if self._boards.get(board.model_id) is not board:
            raise ModelNotLoaded(board.model_id)
        if (ending := self._ends.get(board)) is None:
            ending = self._ends[board] = asyncio.ensure_future(self._end(board))
            ending.add_done_callback(partial(self._ended, board))
        await asyncio.wait((ending,))
        if ending.cancelled():  # all tasks were cancelled from outside: the memory is freed anyway
            raise RuntimeClosed
        ending.result()

    async def close(self) -> None:
        """The runtime is being closed: no board takes requests any more, and what they hold is saved."""
        saves = [asyncio.ensure_future(self._save(board)) for board in self]
        for board in self:
            board.close(RuntimeClosed)
        spares = [asyncio.ensure_future(board.spare_ended()) for board in self]
        if ending := {*saves, *spares, *self._ends.values()}:
            await asyncio.wait(ending)

    def clear(self) -> None:
        """The tree is down."""
        self._boards.clear()
        self._keepers.clear()

    def _is_taken(self, held: ModelBoard | None) -> bool:
        return held is not None and (held in self._ends or not held.is_unloaded)

    async def _end(self, board: ModelBoard) -> None:
        board.close(partial(ModelNotLoaded, board.model_id))
        try:
            await self._save(board)
        finally:
            await self._take_down(board)

    def _ended(self, board: ModelBoard, ending: asyncio.Task[None]) -> None:
        del self._ends[board]
        if not ending.cancelled():
            ending.exception()  # all its callers may have gone

    async def _take_down(self, board: ModelBoard) -> None:
        if (keeper := self._keepers.get(board)) is None:  # its load ended it, having failed or been cancelled
            return
        try:
            await keeper.stop()
        except StopTimeout as timeout:
            raise ModelStuck(board.model_id) from timeout
        await board.spare_ended()
        self._forget(board)

    def _forget(self, board: ModelBoard) -> None:
        """Free its id."""
        self._keepers.pop(board, None)
        if self._boards.get(board.model_id) is board:
            del self._boards[board.model_id]
