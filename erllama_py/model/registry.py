"""The models of one runtime by id: loads and unloads, in whatever order they meet.

Owns the boards, one for each load. An id is free when the supervisor has no child of it any more: not while a load, an
unload or an engine that does not end still holds the memory. An unload belongs to nobody: once it is asked for it goes
on, and all who ask for it wait for the same end.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from erllama_py.actors import ActorEnded, ChildSpec, DynamicSupervisor, NameNotFound, StopTimeout, SupervisorClosed
from erllama_py.errors import AlreadyLoaded, ErllamaError, ModelNotLoaded, ModelStuck, RuntimeClosed
from erllama_py.model.board import ModelBoard
from erllama_py.options.model import ModelConfig
from erllama_py.results import LoadProgress
from erllama_py.scheduler.messages import actor_name


class Registry:
    """See the module. `branch` is the supervisor of now, `child` describes the child of a board, `save` saves what a
    model holds, in bounded time."""

    def __init__(
        self, branch: Callable[[], DynamicSupervisor], child: Callable[[ModelBoard], ChildSpec],
        save: Callable[[ModelBoard], Awaitable[None]],
    ) -> None:  # fmt: skip
        self._branch, self._child, self._save = branch, child, save
        self._boards: dict[str, ModelBoard] = {}
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

    async def load(
        self, model_id: str, config: ModelConfig, on_progress: Callable[[LoadProgress], object] | None
    ) -> ModelBoard:
        """Load a model. A caller that is cancelled takes it back.

        Raises the load's own error, `AlreadyLoaded`, `ModelStuck` where the last model of this id still holds its
        memory, `ModelNotLoaded` when it is unloaded meanwhile, `RuntimeClosed`.
        """
        while (held := self._boards.get(model_id)) is not None:
            if held in self._ends or not held.is_unloaded:
                raise AlreadyLoaded(model_id)
            await self._take_down(held)
        board = self._boards[model_id] = ModelBoard(model_id, config, on_progress)
        try:
            await self._branch().start_child(self._child(board))
        except BaseException as error:
            board.close(partial(ModelNotLoaded, model_id))
            self._forget(board)
            match error:
                case SupervisorClosed():
                    raise RuntimeClosed from None
                case ActorEnded():
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
        if ending.cancelled():  # from outside, as everything was: the memory is freed all the same
            raise RuntimeClosed
        ending.result()

    async def close(self) -> None:
        """The runtime is being closed: no board takes requests any more, and what they hold is saved."""
        saves = [asyncio.ensure_future(self._save(board)) for board in self if board.can_save]
        for board in self:
            board.close(RuntimeClosed)
        if ending := {*saves, *self._ends.values()}:
            await asyncio.wait(ending)

    def clear(self) -> None:
        """The tree is down."""
        self._boards.clear()

    async def _end(self, board: ModelBoard) -> None:
        can_save = board.can_save
        board.close(partial(ModelNotLoaded, board.model_id))
        try:
            if can_save:
                await self._save(board)
        finally:
            await self._take_down(board)

    def _ended(self, board: ModelBoard, ending: asyncio.Task[None]) -> None:
        del self._ends[board]
        if not ending.cancelled():
            ending.exception()  # all who waited for it may have gone

    async def _take_down(self, board: ModelBoard) -> None:
        try:
            await self._branch().stop_child(actor_name(board.model_id))
        except StopTimeout as timeout:
            raise ModelStuck(board.model_id) from timeout
        except NameNotFound:  # it is gone already
            pass
        finally:
            self._forget(board)

    def _forget(self, board: ModelBoard) -> None:
        """Free its id, if its supervisor has done so."""
        gone = actor_name(board.model_id) not in self._branch().child_names()
        if gone and self._boards.get(board.model_id) is board:
            del self._boards[board.model_id]
