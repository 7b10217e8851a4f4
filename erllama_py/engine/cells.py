"""KV cells out of and into sequences, between ticks: what the engine thread calls, with buffers and times.

The only place where KV bytes meet the context. A copy is all that decoding waits for; whatever happens to the
bytes afterwards happens on other threads.
"""

from __future__ import annotations

import time
from contextlib import suppress

from erllama_py.buffers import GRAIN, BufferPool
from erllama_py.engine.backend import Backend, CannotCapture, RestoreStatus
from erllama_py.engine.jobs import Captured, Fork, Forked, Restore, Restored
from erllama_py.options.model import SaveReason, SkipReason

# A decode of fewer tokens does not show what a prompt costs: single rows take several times as long for each.
TYPICAL_TOKENS = 16


class Cells:
    """One backend's cells; `buffers` lends the memory that they are copied to."""

    def __init__(self, backend: Backend, buffers: BufferPool) -> None:
        self._backend = backend
        self._buffers = buffers
        self._largest = buffers.budget // GRAIN * GRAIN  # memory is lent in whole grains
        self._token_seconds = 0.0  # of prefill, as last seen

    def decoded(self, tokens: int, seconds: float) -> None:
        """A decode of `tokens` tokens took `seconds`."""
        if tokens >= TYPICAL_TOKENS or not self._token_seconds:
            self._token_seconds = seconds / tokens

    def capture(
        self, request_id: int, seq_id: int, start: int, end: int, reason: SaveReason, generated: list[int]
    ) -> Captured:
        """Copy positions `[start, end)` out of a sequence, if there is a buffer for them."""
        began, payload = time.perf_counter(), None
        skipped: SkipReason | None = None

        def take(nbytes: int) -> memoryview | None:
            nonlocal skipped
            buffer = self._buffers.take(nbytes)
            if buffer is None:
                skipped = "no_buffer" if nbytes <= self._largest else "too_large"
            return buffer

        try:
            payload = self._backend.capture(seq_id, start, end, take)
        except CannotCapture:
            skipped = "forgotten"
        return Captured(
            request_id=request_id, start=start, end=end, reason=reason, payload=payload, skipped=skipped,
            seconds=time.perf_counter() - began, compute_seconds=(end - start) * self._token_seconds,
            generated=generated,
        )  # fmt: skip

    def restore(self, job: Restore) -> Restored:
        """Put captured bytes back from position `start` on; a refusal leaves what is before it, or nothing."""
        seq_id, start = job.seq_id, job.start
        status = RestoreStatus.UNABLE
        # After a refused row, those that follow do not fit on.
        if self.length(seq_id) >= start and self.cut(seq_id, start):
            with suppress(MemoryError):
                status = self._backend.restore(seq_id, start, job.end, job.payload)
        bad = status is RestoreStatus.BAD_BYTES
        return Restored(job.request_id, job.end, bool(status), self.length(seq_id), bad)

    def fork(self, job: Fork) -> Forked:
        """Share what a sequence holds of its first `length` cells with another."""
        length = min(job.length, self.length(job.source))
        shared = length > 0 and self._backend.share(job.source, job.seq_id, length)
        return Forked(job.request_id, length if shared else 0)

    def cut(self, seq_id: int, length: int) -> bool:
        """Whether a sequence could be made to hold exactly its first `length` tokens."""
        return self._backend.remove(seq_id, length, -1) and self.length(seq_id) == length

    def length(self, seq_id: int) -> int:
        """How many tokens a sequence holds."""
        return self._backend.positions(seq_id)[1] + 1
