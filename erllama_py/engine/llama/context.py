"""One llama.cpp context: its batch, its decodes, the cells of its sequences. Engine thread only.

`Context` owns the native context and the batch's memory. A batch is filled in place: its arrays are made
once, for `n_batch` tokens, and `llama_decode` reads as many of them as `n_tokens` says.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from erllama_py.engine.backend import BackendFailure, DecodeStatus, Slice
from erllama_py.engine.llama.logs import LogContext
from erllama_py.engine.llama.native import Library
from erllama_py.engine.llama.rows import Rows

_STATUS = {0: DecodeStatus.DONE, 1: DecodeStatus.NO_CELLS, 2: DecodeStatus.ABORTED}


class Context:
    """`handle` is a `llama_context *` and belongs to this object from here on."""

    def __init__(self, library: Library, handle: Any, model_id: str, *, n_swa: int, cuttable: bool) -> None:
        self.handle = handle
        self._c, self._quick, self._numpy = library.c, library.quick, library.numpy
        self.n_ctx = int(self._c.llama_n_ctx(handle))
        self.n_batch = int(self._c.llama_n_batch(handle))
        self.n_ubatch = int(self._c.llama_n_ubatch(handle))
        self.n_seq_max = int(self._c.llama_n_seq_max(handle)) - 1  # the last one is the scratch of `states`
        self._n_swa = n_swa
        self._cuttable = cuttable
        # A GPU is still at work when `llama_decode` returns. A call for logits would wait for it with the GIL
        # held, and a tick would seem to take no time. Without one nothing is waited for, so the GIL is not given up.
        self._devices = bool(self._c.llama_supports_gpu_offload())
        self._memory = self._quick.get_memory(handle)
        self._log = LogContext(model_id, hold=True)
        self._begins: dict[int, int] = {}  # see `window_begins`
        self._read: list[range] = []  # of each slice of the last decode: which of the rows of logits are its tokens'
        self._outputs_read: Rows | None = None  # llama.cpp keeps the logits of all of them one after the other
        self._make_batch(library)

    def _make_batch(self, library: Library) -> None:
        size = self.n_batch
        self._tokens = (ctypes.c_int32 * size)()
        self._positions = (ctypes.c_int32 * size)()
        self._sequences = (ctypes.c_int32 * size)()
        self._outputs = (ctypes.c_int8 * size)()
        ones = (ctypes.c_int32 * size)(*[1] * size)
        # Each token names its sequences by a pointer to a list; ours have one entry, in `_sequences`.
        one = ctypes.POINTER(ctypes.c_int32)
        base, step = ctypes.addressof(self._sequences), ctypes.sizeof(ctypes.c_int32)
        addresses = (ctypes.c_void_p * size)(*range(base, base + size * step, step))
        self._batch = library.c.llama_batch(
            0, ctypes.cast(self._tokens, one), None, ctypes.cast(self._positions, one), ctypes.cast(ones, one),
            ctypes.cast(addresses, ctypes.POINTER(one)), ctypes.cast(self._outputs, ctypes.POINTER(ctypes.c_int8)),
        )  # fmt: skip

    def set_threads(self, single: int, several: int) -> None:
        """See `Backend.set_threads`."""
        self._quick.set_n_threads(self.handle, single, several)

    def decode(self, slices: Sequence[Slice], *, scratch: bool = False) -> DecodeStatus:
        """See `Backend.decode`. What llama.cpp would answer by ending the process is checked here. `scratch`: also in
        the sequence that no request has."""
        self._read, self._outputs_read = [], None
        read = self._fill(slices, self.n_seq_max + scratch)
        with self._log as log:
            code = self._c.llama_decode(self.handle, self._batch)
        status = _STATUS.get(code)
        if status is DecodeStatus.DONE:
            self._read = read
            log.release(expected=False)
            if self._devices:
                self._c.llama_synchronize(self.handle)
            return status
        # Being full and being stopped are reported as warnings and errors, but are answers here.
        log.release(expected=status is not None)
        if status is None:
            raise BackendFailure(f"llama_decode answered {code}: {log.problem('no reason given')}")
        if status is DecodeStatus.ABORTED and not self._cuttable:
            self._forget(slices)
        return status

    def _fill(self, slices: Sequence[Slice], n_sequences: int) -> list[range]:
        tokens, positions, sequences, outputs = self._tokens, self._positions, self._sequences, self._outputs
        read: list[range] = []
        row = n_read = 0
        for part in slices:
            count = len(part.tokens)
            end = row + count
            if not count or end > self.n_batch or part.start < 0 or not 0 <= part.seq_id < n_sequences:
                where = f"sequence {part.seq_id} from position {part.start}"
                raise BackendFailure(f"slice {len(read)} does not fit: {count} tokens of {where}")
            if count == 1:
                tokens[row] = part.tokens[0]
                positions[row] = part.start
                sequences[row] = part.seq_id
            else:
                tokens[row:end] = list(part.tokens)
                positions[row:end] = list(range(part.start, part.start + count))
                sequences[row:end] = [part.seq_id] * count
                outputs[row:end] = [part.every] * count
            outputs[end - 1] = part.logits or part.every
            read.append(range(n_read, n_read + (count if part.every else part.logits)))
            row, n_read = end, read[-1].stop
        self._batch.n_tokens = row
        return read

    def _forget(self, slices: Sequence[Slice]) -> None:
        """A recurrent state that a decode was stopped in is neither the old nor the new one: drop it."""
        for part in slices:
            self._quick.memory_seq_rm(self._memory, part.seq_id, -1, -1)

    def rows(self, index: int, n_vocab: int) -> tuple[Rows, range]:
        """The rows of logits of the last decode, and which of them are those of slice `index`: of all its tokens, or of
        the last."""
        places = self._read[index] if 0 <= index < len(self._read) else range(0)
        if not places:
            raise BackendFailure(f"slice {index} of the last decode has no logits")
        return self._outputs_of(n_vocab), places

    def _outputs_of(self, n_vocab: int) -> Rows:
        if self._outputs_read is None:
            wanted = self._read[-1].stop
            address = self._quick.get_logits(self.handle)
            if address is None:
                raise BackendFailure("llama.cpp has no logits for the last decode")
            values = (ctypes.c_float * (wanted * n_vocab)).from_address(address)
            self._outputs_read = Rows(self._numpy, self._numpy.frombuffer(values, "f4").reshape(wanted, n_vocab))
        return self._outputs_read

    def remove(self, seq_id: int, start: int, end: int) -> bool:
        """See `Backend.remove`.

        llama.cpp cuts a sequence with a sliding window back to any position and answers true, but the
        cells that the window of position `start` needs may be forgotten already; we refuse then.
        """
        self._check(seq_id)
        if self._n_swa and start > 0:
            first, last = self.positions(seq_id)
            if start <= last and first > max(0, start - self._n_swa + 1):
                return False
        if start <= 0 and end < 0:
            self._begins.pop(seq_id, None)
        return bool(self._quick.memory_seq_rm(self._memory, seq_id, start, end))

    def share(self, source: int, seq_id: int, length: int) -> bool:
        """See `Backend.share`. All sequences are in one cache, so that `seq_cp` only marks its cells."""
        self._check(source)
        self._check(seq_id)
        if source == seq_id:
            raise BackendFailure(f"sequence {source} cannot share cells with itself")
        if self._n_swa or not self._cuttable:
            return False
        first, last = self.positions(source)
        if first != 0 or not 0 < length <= last + 1:
            raise BackendFailure(f"sequence {source} does not hold {length} positions")
        self.remove(seq_id, 0, -1)
        self._quick.memory_seq_cp(self._memory, source, seq_id, 0, length)
        return True

    def positions(self, seq_id: int) -> tuple[int, int]:
        """See `Backend.positions`."""
        self._check(seq_id)
        first = self._quick.memory_seq_pos_min(self._memory, seq_id)
        if self._begins and first >= 0:
            first = max(first, self._begins.get(seq_id, 0))
        return first, self._quick.memory_seq_pos_max(self._memory, seq_id)

    def window_begins(self, seq_id: int, first: int) -> None:
        """Do not count what the sequence holds of its window before `first`: a gap follows it.

        A restored range brings just the window of its end, while what the range before it brought still lies in
        the cache: llama.cpp then gives a first position that is not followed by all others.
        """
        self._begins[seq_id] = first

    def _check(self, seq_id: int) -> None:
        if not 0 <= seq_id < self.n_seq_max:
            raise BackendFailure(f"no sequence {seq_id}")

    def close(self) -> None:
        """Free the native context. Allowed twice."""
        handle, self.handle = self.handle, None
        if handle is not None:
            self._c.llama_free(handle)
