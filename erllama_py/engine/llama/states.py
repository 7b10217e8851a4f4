"""Copying ranges of a sequence out of a context and back in. Engine thread only.

llama.cpp saves and loads whole sequences. `States` owns one more sequence than requests may use, the scratch
one, and has it hold just the range: marking cells as its own (`seq_cp`) copies nothing where all sequences
share one cache. It is empty between two calls, so it costs no cells.

Captured bytes are llama.cpp's own format (`state_format`). What a restore refuses, before llama.cpp sees it or by its
answer:

- a length other than what the format itself says; another number of layers, other types and widths of keys,
  values and states; values laid out the other way (flash attention);
- cells that are not exactly those of the range, in any section, or more than one state;
- numbers that are none, or infinite.

What the numbers are is not looked at: another model of the same shape cannot be recognised here.

Where llama.cpp refuses what looks right, the context itself may be at fault: it has no cells left, or its scratch
sequence holds cells that nothing removes. A row that is known to be good shows which: one token, computed for that.
A context that does not take it either is cleared as soon as no sequence holds anything; until then it takes no row,
and no row is blamed.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from typing import Any

from erllama_py.engine.backend import (
    BackendFailure,
    CannotCapture,
    DecodeStatus,
    MemoryKind,
    RestoreStatus,
    Slice,
)
from erllama_py.engine.llama.context import Context
from erllama_py.engine.llama.logs import LogContext
from erllama_py.engine.llama.native import Library
from erllama_py.engine.llama.state_format import PREAMBLE_BYTES, Section, are_finite, read_state
from erllama_py.watch.log import get_logger

Sections = tuple[Section, ...]
Form = tuple[tuple[object, ...], ...]

_NO_CELLS = re.compile(r"\bcells\b")  # in each of llama.cpp's reasons for a lack of them
_BYTES = ctypes.POINTER(ctypes.c_uint8)


class States:
    """Ranges of the sequences of `context`, whose memory is of the kind given."""

    def __init__(
        self, library: Library, context: Context, model_id: str, memory: MemoryKind, n_swa: int, *, transposed: bool
    ) -> None:
        self._c, self._quick, self._numpy = library.c, library.quick, library.numpy
        # Transposed values are counted one by one where a range lies scattered among others: 2.6 ms for 256 tokens of
        # a model with 30 layers of 192 values.
        self._get_size = library.c.llama_state_seq_get_size if transposed else library.quick.state_seq_get_size
        self._context = context
        self._memory = self._quick.get_memory(context.handle)
        self._scratch = context.n_seq_max
        self._kind = memory
        self._n_swa = n_swa
        self._at_end_only = memory in ("recurrent", "hybrid")
        self._log = LogContext(model_id, hold=True)
        self._form: Form | None = None  # of this context's states, once one was seen
        self._broken = False  # it takes nothing any more
        self._logger = get_logger(model=model_id)

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
            if not self._copy_out(payload):
                raise CannotCapture(f"the state of {start} to {end - 1} could not be copied")
        finally:
            self._clear()
        sections = self._sections_of(payload)
        if not self._are_range(sections, start, end):
            raise CannotCapture("this model's state has a form that is not known here")
        self._form = _form(sections)
        return payload

    def _copy_out(self, payload: memoryview) -> bool:
        """Whether the bytes were filled with the state of the scratch sequence."""
        size, handle = len(payload), self._context.handle
        return bool(self._c.llama_state_seq_get_data(handle, self._pointer(payload), size, self._scratch) == size)

    def restore(self, seq_id: int, start: int, end: int, payload: memoryview) -> RestoreStatus:
        """See `Backend.restore`."""
        if self._context.positions(seq_id)[1] != start - 1 or (self._broken and not self._mended()):
            return RestoreStatus.UNABLE
        sections = self._sections_of(payload)
        form = _form(sections)
        if not self._are_range(sections, start, end) or (self._form is not None and form != self._form):
            return RestoreStatus.BAD_BYTES
        if not are_finite(payload, sections):
            return RestoreStatus.BAD_BYTES
        try:
            if not (self._put(payload) and self._scratch_holds(start, end)):
                self._clear()
                return self._why_refused()
            self._quick.memory_seq_cp(self._memory, self._scratch, seq_id, start, end)
        finally:
            self._clear()
        self._form = form
        if self._kind == "window" and self._first(start, end) > start:
            self._context.window_begins(seq_id, self._first(start, end))
        return RestoreStatus.DONE

    def _put(self, payload: memoryview) -> bool:
        """Whether llama.cpp takes the bytes, into the scratch sequence."""
        size = len(payload)
        with self._log as log:
            read = self._c.llama_state_seq_set_data(self._context.handle, self._pointer(payload), size, self._scratch)
        log.release(expected=True)  # that there is no room, or that it is another model's, is an answer
        return bool(read == size)

    # --- when llama.cpp refuses -------------------------------------------------------------------------------

    def _why_refused(self) -> RestoreStatus:
        """Bytes that look right were refused. They are to blame only if there were cells for them, and the context
        takes a row that is known to be good."""
        no_cells = any(_NO_CELLS.search(line) for line in self._log.errors)
        known = None if no_cells else self._known_good()
        if known is None:
            return RestoreStatus.UNABLE
        try:
            taken = self._put(known) and self._scratch_holds(0, 1)
        finally:
            self._clear()
        if not taken:
            self._broken = True
            self._logger.warning("a context takes no rows any more, until none of its sequences holds anything")
            return RestoreStatus.UNABLE
        self._form = _form(self._sections_of(known))
        return RestoreStatus.BAD_BYTES

    def _known_good(self) -> memoryview | None:
        """The state of one token, computed for this; None where it cannot be had now."""
        if self._context.decode([Slice(self._scratch, 0, (0,), False)], scratch=True) is not DecodeStatus.DONE:
            return None
        try:
            size = int(self._get_size(self._context.handle, self._scratch))
            known = memoryview(bytearray(size))
            return known if self._copy_out(known) else None
        finally:
            self._clear()

    def _mended(self) -> bool:
        """Whether a context that takes nothing was emptied and takes rows again: only where no sequence holds cells."""
        if any(self._context.positions(seq_id)[1] >= 0 for seq_id in range(self._context.n_seq_max)):
            return False
        self._c.llama_memory_clear(self._memory, True)
        self._broken = False
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
        return size - PREAMBLE_BYTES

    def _first(self, start: int, end: int) -> int:
        """The first position of the range that must be there: a token at `end` looks back to there."""
        return max(start, end - self._n_swa + 1) if self._n_swa else start

    def _scratch_holds(self, start: int, end: int) -> bool:
        first = self._quick.memory_seq_pos_min(self._memory, self._scratch)
        last = self._quick.memory_seq_pos_max(self._memory, self._scratch)
        return bool(last == end - 1 and (self._at_end_only or start <= first <= self._first(start, end)))

    def _sections_of(self, payload: memoryview) -> Sections:
        kind = self._kind
        return read_state(payload, attention=kind != "recurrent", recurrent=kind in ("recurrent", "hybrid")) or ()

    def _are_range(self, sections: Sections, start: int, end: int) -> bool:
        """Whether each section holds the cells that it has of `[start, end)`, and no others."""
        numpy, first = self._numpy, self._first(start, end)
        for number, section in enumerate(sections):
            positions = numpy.sort(section.positions)
            if section.recurrent:
                start = first = end - 1
            needed = numpy.arange(start if number == 0 else first, end)
            if len(positions) > end - start or positions[0] < start or (positions[1:] == positions[:-1]).any():
                return False
            if not numpy.array_equal(positions[-len(needed) :], needed):
                return False
        return bool(sections) and 0 <= start < end

    def _pointer(self, payload: memoryview) -> Any:
        """Where the bytes are; also of a read-only view, and without a copy."""
        return ctypes.cast(self._numpy.frombuffer(payload, dtype="u1").ctypes.data, _BYTES)

    def _clear(self) -> None:
        self._quick.memory_seq_rm(self._memory, self._scratch, -1, -1)


def _form(sections: Sections) -> Form:
    return tuple(section.form for section in sections)
