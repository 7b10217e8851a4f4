"""The cells of a context, counted one by one: what sequences hold, whose it is, and how many cells that takes.

`FakeCells` owns them. A cell has its token and its owner, so that what was kept, shared or restored can be compared
with what it should be. Cells run out at `n_cells`, shared ones counted once; a sliding window forgets, and a recurrent
state stands only at its end. Where the real ones would refuse a request that should never be made, these fail.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from erllama_py.cache.keys import Identity, pack_tokens
from erllama_py.engine.backend import MemoryKind


def unpacked(packed: bytes | memoryview) -> list[int]:
    """The tokens that were packed."""
    return memoryview(packed).cast("I").tolist()


@dataclass(eq=False, slots=True)
class Cell:
    token: int
    owner: Identity


@dataclass(slots=True)
class Sequence:
    """`cells` from position 0; of a sliding window those below `first` cannot be looked back to any more."""

    cells: list[Cell] = field(default_factory=list)
    first: int = 0

    @property
    def tokens(self) -> list[int]:
        return [cell.token for cell in self.cells]


class FakeCells:
    """See the module."""

    def __init__(self, memory: MemoryKind, n_swa: int, n_cells: int, n_seq_max: int) -> None:
        self.sequences = [Sequence() for _ in range(n_seq_max)]
        self.memory = memory
        self._n_swa, self._n_cells = n_swa, n_cells

    @property
    def used(self) -> int:
        """Cells in use, each once however many sequences it is in."""
        return len({id(cell) for sequence in self.sequences for cell in sequence.cells})

    def length(self, seq_id: int) -> int:
        return len(self.sequences[seq_id].cells)

    def room_for(self, count: int) -> bool:
        return self.used + count <= self._n_cells

    def _needed(self, end: int) -> int:
        """The first position that a token at `end` looks back to."""
        return max(0, end - self._n_swa + 1) if self.memory == "window" else 0

    def can_cut(self, seq_id: int, length: int) -> bool:
        sequence = self.sequences[seq_id]
        if length in (0, len(sequence.cells)):
            return True
        cuttable = self.memory in ("full", "window") and length < len(sequence.cells)
        return cuttable and sequence.first <= self._needed(length)

    def cut(self, seq_id: int, length: int) -> None:
        assert self.can_cut(seq_id, length), f"{length} of {self.sequences[seq_id]} in {self.memory}"
        sequence = self.sequences[seq_id]
        del sequence.cells[length:]
        sequence.first = min(sequence.first, length)

    def write(self, seq_id: int, tokens: list[int], owner: Identity) -> None:
        """Put tokens after what there is."""
        assert self.room_for(len(tokens)), "the cells of the context do not suffice"
        self.sequences[seq_id].cells += [Cell(token, owner) for token in tokens]

    def forget(self, seq_id: int, position: int) -> None:
        """What a token at `position`, and those after it, do not look back to goes."""
        sequence = self.sequences[seq_id]
        sequence.first = max(sequence.first, self._needed(position))

    def share(self, source: int, seq_id: int, length: int) -> int:
        """How many of the first `length` cells are in the other sequence too now."""
        length = min(length, self.length(source)) if self.memory == "full" else 0
        if length:
            self.sequences[seq_id].cells = self.sequences[source].cells[:length]
        return length

    def capture(self, seq_id: int, start: int, end: int) -> memoryview | None:
        """The bytes of a range; None where some are gone."""
        sequence = self.sequences[seq_id]
        assert 0 <= start < end <= len(sequence.cells)
        whole = sequence.first <= max(start, self._needed(end))
        stands = self.memory in ("full", "window") or len(sequence.cells) == end
        return memoryview(pack_tokens(sequence.tokens[start:end])) if whole and stands else None

    def restore(self, seq_id: int, tokens: list[int], owner: Identity) -> None:
        """Put a range back; of one longer than a window only the window's part was captured."""
        start = self.length(seq_id)
        self.write(seq_id, tokens, owner)
        self.forget(seq_id, start + len(tokens) if len(tokens) >= self._n_swa else start)
