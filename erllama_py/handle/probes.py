"""What is known of a model at any moment: read from its board, without a message to its actor."""

from __future__ import annotations

from erllama_py.model.board import ModelBoard
from erllama_py.model.counting import counters_of, info_of, sequences_of
from erllama_py.results import CacheHit, ModelCounters, ModelInfo, Phase, SequenceInfo


class Probes:
    """The properties of a handle; `_board` is that of the load that it belongs to."""

    _board: ModelBoard

    @property
    def id(self) -> str:
        """The id it was loaded under."""
        return self._board.model_id

    @property
    def phase(self) -> Phase:
        """What it is doing now."""
        return self._board.phase

    @property
    def pending_len(self) -> int:
        """Requests that wait, parked ones among them."""
        return self._board.pending

    @property
    def queue_depth(self) -> int:
        """Requests that run or wait, embeddings among them."""
        return self._board.pending + self._board.active + self._board.embedding

    @property
    def last_cache_hit(self) -> CacheHit | None:
        """How the last request that was started hit; `None` before the first."""
        return self._board.last_hit

    @property
    def counters(self) -> ModelCounters:
        """What it has done since it was loaded, and what it holds now, in numbers. Never raises."""
        return counters_of(self._board)

    @property
    def sequences(self) -> tuple[SequenceInfo, ...]:
        """Its sequences and what each does now; none while it is not up. Never raises."""
        return sequences_of(self._board)

    @property
    def info(self) -> ModelInfo:
        """Everything known of it. Raises `ModelNotLoaded` before the first load has ended."""
        return info_of(self._board)
