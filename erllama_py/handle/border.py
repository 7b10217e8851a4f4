"""Where the actor kit's errors become the ones that callers of a model know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from erllama_py.actors import ActorEnded, Raised
from erllama_py.errors import ModelCrashed
from erllama_py.model.board import ModelBoard


@contextmanager
def caller_errors(board: ModelBoard) -> Iterator[None]:
    """Translate what a call of the model's actor may raise; everything else passes."""
    try:
        yield
    except ActorEnded as ended:
        if isinstance(ended.exit, Raised):
            error = ended.exit.error
            raise ModelCrashed(board.model_id, str(error), gave_up=ended.last) from error
        board.check()  # it was unloaded, or the runtime closed
        raise ModelCrashed(board.model_id, "its task was cancelled from outside", gave_up=ended.last) from ended
