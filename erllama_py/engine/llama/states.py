"""Copying ranges of a sequence out of a context and back in. Engine thread only.

llama.cpp saves and loads whole sequences. `States` owns one more sequence than requests may use, the scratch
one, and has it hold just the range: marking cells as its own (`seq_cp`) copies nothing where all sequences
share one cache. It is empty between two calls, so it costs no cells.

Captured bytes are llama.cpp's own format. What a restore refuses, before llama.cpp sees it or by its answer:

- a length other than what the format itself says; another number of layers, other types and widths of keys,
  values and states; values laid out the other way (flash attention);
- cells that are not exactly those of the range, or more than one state: llama.cpp would take any position, and
  a cell at position -1 could never be removed again.

The numbers themselves are not looked at: another model of the same shape cannot be recognised here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from erllama_py.engine.backend import BackendFailure, CannotCapture, DecodeStatus, MemoryKind, Slice
from erllama_py.engine.llama.context import Context
from erllama_py.engine.llama.logs import LogContext
from erllama_py.engine.llama.native import Library

# 32-bit words at the beginning: magic, sequence; then for attention the number of streams (1 in a unified
# cache) and of cells, for a recurrent state the number of states. One record for each cell or state follows.
_PREAMBLE = 2
# Words of a cell's record: position, number of sequences (1), sequence; some models have two coordinates and the
# token between the last two.
_RECORDS = (3, 6)
_BYTES = ctypes.POINTER(ctypes.c_uint8)


class States:
    """Ranges of the sequences of `context`, whose memory is of the kind given."""

    def __init__(
        self, library: Library, context: Context, model_id: str, memory: MemoryKind, n_swa: int, *, flash_attn: bool
    ) -> None:
        self._c, self._quick, self._numpy = library.c, library.quick, library.numpy
        # Without flash attention values are stored transposed and are counted one by one where a range lies
        # scattered among others: 2.6 ms for 256 tokens of a model with 30 layers of 192 values.
        self._get_size = library.quick.state_seq_get_size if flash_attn else library.c.llama_state_seq_get_size
        self._context = context
        self._memory = self._quick.get_memory(context.handle)
        self._scratch = context.n_seq_max
        self._kind = memory
        self._n_swa = n_swa
        self._at_end_only = memory in ("recurrent", "hybrid")
        self._log = LogContext(model_id, hold=True)

    def capture(self, seq_id: int, start: int, end: int, take: Callable[[int], memoryview | None]) -> memoryview | None:
        """See `Backend.capture`."""
        first, last = self._context.positions(seq_id)
        stands = last == end - 1 if self._at_end_only else last >= end - 1 and first <= self._first(start, end)
        if not 0 <= start < end or not stands:
            raise CannotCapture(f"sequence {seq_id} holds {first} to {last}, wanted were {start} to {end - 1}")
        handle, scratch = self._context.handle, self._scratch
        self._quick.memory_seq_cp(self._memory, seq_id, scratch, start, end)
        try:
            size = int(self._get_size(handle, scratch))
            buffer = take(size)
            if buffer is None:
                return None
            payload = buffer[:size]
            if self._c.llama_state_seq_get_data(handle, self._pointer(payload), size, scratch) != size:
                raise CannotCapture(f"the state of {start} to {end - 1} could not be copied")
        finally:
            self._clear()
        if not self._is_range(payload, start, end):
            raise CannotCapture("this model's state has a form that is not known here")
        return payload

    def restore(self, seq_id: int, start: int, end: int, payload: memoryview) -> bool:
        """See `Backend.restore`."""
        if self._context.positions(seq_id)[1] != start - 1 or not self._is_range(payload, start, end):
            return False
        size, scratch = len(payload), self._scratch
        try:
            with self._log as log:
                read = self._c.llama_state_seq_set_data(self._context.handle, self._pointer(payload), size, scratch)
            log.release(expected=True)  # that there is no room, or that it is another model's, is an answer
            if read != size or not self._scratch_holds(start, end):
                return False
            self._quick.memory_seq_cp(self._memory, scratch, seq_id, start, end)
        finally:
            self._clear()
        if self._kind == "window" and self._first(start, end) > start:
            self._context.window_begins(seq_id, self._first(start, end))
        return True

    def state_bytes(self) -> int:
        """Bytes of a recurrent state, as each captured range carries it; only where there is one.

        llama.cpp does not report it, so one token is decoded, measured and dropped again. Of a hybrid it can leave out
        what full attention keeps; should its attention have a window, the one cell of that is counted in.
        """
        if self._context.decode([Slice(0, 0, (0,), False)]) is not DecodeStatus.DONE:
            raise BackendFailure("the first decode was not done")
        partial = self._c.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        size = int(self._c.llama_state_seq_get_size_ext(self._context.handle, 0, partial))
        self._context.remove(0, 0, -1)
        return size - _PREAMBLE * 4

    def _first(self, start: int, end: int) -> int:
        """The first position of the range that must be there: a token at `end` looks back to there."""
        return max(start, end - self._n_swa + 1) if self._n_swa else start

    def _scratch_holds(self, start: int, end: int) -> bool:
        first = self._quick.memory_seq_pos_min(self._memory, self._scratch)
        last = self._quick.memory_seq_pos_max(self._memory, self._scratch)
        return bool(last == end - 1 and (self._at_end_only or start <= first <= self._first(start, end)))

    def _is_range(self, payload: memoryview, start: int, end: int) -> bool:
        """Whether the bytes begin as those of `[start, end)` do."""
        count = end - start
        if start < 0 or count < 1:
            return False
        words = self._numpy.frombuffer(payload, dtype="u4", count=min(len(payload) // 4, 4 + _RECORDS[-1] * count))
        words = words[_PREAMBLE:]
        if self._kind == "recurrent":
            return bool(words[:3].tolist() == [1, end - 1, 0])  # one state; its position; the sequences are left out
        if words[:2].tolist() != [1, count]:
            return False
        expected = self._numpy.arange(start, end, dtype="u4")
        for size in _RECORDS:
            records = words[2 : 2 + size * count]
            if len(records) == size * count:
                positions, sequences = records[::size], records[1::size]
                if (sequences == 1).all() and (self._numpy.sort(positions) == expected).all():
                    return True
        return False

    def _pointer(self, payload: memoryview) -> Any:
        """Where the bytes are; also of a read-only view, and without a copy."""
        return ctypes.cast(self._numpy.frombuffer(payload, dtype="u1").ctypes.data, _BYTES)

    def _clear(self) -> None:
        self._quick.memory_seq_rm(self._memory, self._scratch, -1, -1)
