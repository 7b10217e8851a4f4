"""The stub's KV cells: which positions each sequence holds, and the value at each.

`StubCells` owns them. The value at a position is a checksum chained over the tokens up to there. What a memory
of each kind forgets, refuses and carries along is what llama.cpp's does:

- full: nothing is forgotten, any tail can be cut off, and a cell may belong to several sequences;
- window: a position that no token from the last micro-batch on looks back to is forgotten, and one that a sequence's
  next token does not look back to is taken by the tokens of others;
- recurrent, hybrid: only the state at the sequence's end is there, and it cannot be cut back.

Captured bytes are a header (the kind of memory; start and end of the range; the first position that is in it),
then the values, all little-endian u32.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable

from erllama_py.engine.backend import BackendFailure, CannotCapture, RestoreStatus, Slice
from erllama_py.options.stub import StubOpts

VALUE_BYTES = 4
_HEADER = struct.Struct("<4I")


class _Cell:
    """One cell. It is free again when no sequence uses it any more."""

    __slots__ = ("users", "value")

    def __init__(self, value: int) -> None:
        self.value = value
        self.users = 1


# The cells of one sequence by position. Positions are only ever added after the last one, so they are in order.
_Sequence = dict[int, _Cell]


class StubCells:
    """Cells of all sequences, `n_cells` at most; slices are taken in micro-batches of `n_ubatch` tokens."""

    def __init__(self, stub: StubOpts, n_cells: int, n_ubatch: int, n_sequences: int) -> None:
        self._n_cells, self._n_ubatch = n_cells, n_ubatch
        self._at_end_only = stub.memory in ("recurrent", "hybrid")
        self._window = stub.n_swa if stub.memory == "window" else 0
        self._shares = stub.memory == "full"
        self._kind = zlib.crc32(f"{stub.memory} {stub.n_swa} {stub.vocab_size}".encode())
        self._sequences: list[_Sequence] = [{} for _ in range(n_sequences)]
        self._used = 0  # cells, each once however many sequences use it

    def _of(self, seq_id: int) -> _Sequence:
        if not 0 <= seq_id < len(self._sequences):
            raise BackendFailure(f"no sequence {seq_id}")
        return self._sequences[seq_id]

    def room_for(self, count: int) -> bool:
        return self._used + count <= self._n_cells

    def _write(self, cells: _Sequence, position: int, value: int) -> None:
        cells[position] = _Cell(value)
        self._used += 1

    def _drop(self, cells: _Sequence, positions: Iterable[int]) -> None:
        for position in positions:
            cell = cells.pop(position)
            cell.users -= 1
            self._used -= not cell.users

    def append(self, part: Slice) -> list[int]:
        """Write the cells of a slice; from the last of their values the next token is drawn."""
        cells = self._of(part.seq_id)
        last = self.positions(part.seq_id)[1]
        if part.start != last + 1:
            raise BackendFailure(f"position {part.start} does not follow what sequence {part.seq_id} holds")
        value, values = cells[last].value if cells else 0, list[int]()
        self._take_from_others(cells)
        for position, token in enumerate(part.tokens, part.start):
            value = zlib.crc32(token.to_bytes(4, "little"), value)
            values.append(value)
            self._write(cells, position, value)
        last_ubatch = part.start + (len(part.tokens) - 1) // self._n_ubatch * self._n_ubatch
        self._forget(cells, last_ubatch)
        return values

    def _forget(self, cells: _Sequence, last_ubatch: int) -> None:
        """Drop the cells that the token at `last_ubatch` and those after it do not look back to."""
        if self._at_end_only:
            self._drop(cells, list(cells)[:-1])
        elif self._window:
            self._drop(cells, [position for position in cells if position <= last_ubatch - self._window])

    def _take_from_others(self, cells: _Sequence) -> None:
        """llama.cpp writes to these first, also where cells are free; here they are all taken at once."""
        for others in self._sequences if self._window else ():
            if others is not cells and others:
                self._forget(others, next(reversed(others)) + 1)

    def _needed(self, end: int) -> int:
        """The first position that a token at `end` looks back to."""
        if self._at_end_only:
            return end - 1
        return max(0, end - self._window + 1) if self._window else 0

    def remove(self, seq_id: int, start: int, end: int) -> bool:
        cells = self._of(seq_id)
        gone = [position for position in cells if position >= start and (end < 0 or position < end)]
        if gone and start > 0 and (self._at_end_only or (self._window and min(cells) > self._needed(start))):
            return False
        self._drop(cells, gone)
        return True

    def share(self, source: int, seq_id: int, length: int) -> bool:
        shared, cells = self._of(source), self._of(seq_id)
        if source == seq_id:
            raise BackendFailure(f"sequence {source} cannot share cells with itself")
        if not self._shares:
            return False
        first, last = self.positions(source)
        if first != 0 or not 0 < length <= last + 1:
            raise BackendFailure(f"sequence {source} does not hold {length} positions")
        self._drop(cells, list(cells))
        for position, cell in shared.items():
            if position < length:
                cell.users += 1
                cells[position] = cell
        return True

    def positions(self, seq_id: int) -> tuple[int, int]:
        cells = self._of(seq_id)
        return (next(iter(cells)), next(reversed(cells))) if cells else (-1, -1)

    def capture(self, seq_id: int, start: int, end: int, take: Callable[[int], memoryview | None]) -> memoryview | None:
        cells = self._of(seq_id)
        first, last = self.positions(seq_id)
        stands = last == end - 1 if self._at_end_only else last >= end - 1
        if not 0 <= start < end or not stands or first > max(start, self._needed(end)):
            raise CannotCapture(f"sequence {seq_id} holds {first} to {last}, wanted were {start} to {end - 1}")
        first = max(first, start)
        payload = _HEADER.pack(self._kind, start, end, first)
        payload += struct.pack(f"<{end - first}I", *(cells[position].value for position in range(first, end)))
        buffer = take(len(payload))
        if buffer is None:
            return None
        buffer[: len(payload)] = payload
        return buffer[: len(payload)]

    def restore(self, seq_id: int, start: int, end: int, payload: memoryview) -> RestoreStatus:
        if self.positions(seq_id)[1] != start - 1:
            return RestoreStatus.UNABLE
        if len(payload) < _HEADER.size:
            return RestoreStatus.BAD_BYTES
        *what, first = _HEADER.unpack_from(payload)
        count = end - first
        fits = start <= first <= max(start, self._needed(end)) and len(payload) == _HEADER.size + VALUE_BYTES * count
        if what != [self._kind, start, end] or not fits:
            return RestoreStatus.BAD_BYTES
        if not self.room_for(count):
            return RestoreStatus.UNABLE
        values = struct.unpack_from(f"<{count}I", payload, _HEADER.size)
        cells = self._of(seq_id)
        self._take_from_others(cells)
        if first > start or self._at_end_only:  # what lies before a gap counts no more
            self._drop(cells, list(cells))
        else:  # cells that a token at `start` does not look back to make room
            self._forget(cells, start)
        for position, value in zip(range(first, end), values, strict=True):
            self._write(cells, position, value)
        return RestoreStatus.DONE

    def clear(self) -> None:
        for cells in self._sequences:
            self._drop(cells, list(cells))
