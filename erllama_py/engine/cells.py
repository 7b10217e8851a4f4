"""KV cells out of and into sequences, between ticks: what the engine thread calls, with buffers and times.

The only place where KV bytes meet the context. A copy is all that decoding waits for; whatever happens to the
bytes afterwards happens on other threads. How long copies take is measured here; `rates` has the rule that says whether
one is made at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from erllama_py.buffers import GRAIN, BufferPool
from erllama_py.engine.backend import Backend, CannotCapture, RestoreStatus
from erllama_py.engine.jobs import Captured, Fork, Forked, Restore, Restored
from erllama_py.engine.rates import TYPICAL_TOKENS, Rates, computed, copied_into, copied_out, copies_out
from erllama_py.engine.recorder import Recorder
from erllama_py.options.model import SaveReason, SkipReason


class Cells:
    """One backend's cells, `n_cells` of them; `buffers` lends the memory that they are copied to. Any thread may read
    `rates`."""

    def __init__(
        self, backend: Backend, buffers: BufferPool, n_cells: int = 1 << 17,
        clock: Callable[[], float] = time.perf_counter, recorder: Recorder | None = None,
    ) -> None:  # fmt: skip
        self._recorder = Recorder() if recorder is None else recorder
        self.rates = Rates(longest=max(1, n_cells))
        self._clock = clock
        self._backend = backend
        self._buffers = buffers
        self._largest = buffers.budget // GRAIN * GRAIN  # memory is lent in whole grains
        self._token_seconds = 0.0  # of prefill, as last seen

    def decoded(self, tokens: int, prompt_tokens: int, seconds: float) -> None:
        """A decode of `tokens` tokens, `prompt_tokens` of them of prompts, took `seconds`."""
        self.rates = computed(self.rates, prompt_tokens, tokens, seconds)
        if tokens >= TYPICAL_TOKENS or not self._token_seconds:
            self._token_seconds = seconds / tokens

    def worth(self, start: int, end: int) -> bool:
        """Whether copying positions `[start, end)` out now is worth its time."""
        return copies_out(self.rates, end - start)

    def left(self, request_id: int, start: int, end: int, reason: SaveReason) -> Captured:
        """What is reported of a range that is not copied out, because that is not worth it."""
        return Captured(
            request_id=request_id, start=start, end=end, reason=reason, payload=None, skipped="slow", seconds=0.0,
            compute_seconds=0.0, generated=[],
        )  # fmt: skip

    def capture(
        self, request_id: int, seq_id: int, start: int, end: int, reason: SaveReason, generated: list[int]
    ) -> Captured:
        """Copy positions `[start, end)` out of a sequence, if there is a buffer for them."""
        began, payload = self._clock(), None
        skipped: SkipReason | None = None

        def take(nbytes: int) -> memoryview | None:
            nonlocal skipped
            buffer = self._buffers.take(nbytes)
            if buffer is None:
                skipped = "no_buffer" if nbytes <= self._largest else "too_large"
            return buffer

        self._recorder.begin("capture", (request_id,), end - start)
        try:
            payload = self._backend.capture(seq_id, start, end, take)
        except CannotCapture:
            skipped = "forgotten"
        seconds = self._clock() - began
        if payload is not None:
            self.rates = copied_out(self._within(len(payload), end - start), end - start, seconds)
        return Captured(
            request_id=request_id, start=start, end=end, reason=reason, payload=payload, skipped=skipped,
            seconds=seconds, compute_seconds=(end - start) * self._token_seconds, generated=generated,
        )  # fmt: skip

    def _within(self, nbytes: int, tokens: int) -> Rates:
        """The rates, with no hope for a range that no buffer would hold."""
        most = max(tokens, self._largest * tokens // max(1, nbytes))
        return self.rates if most >= self.rates.longest else msgspec.structs.replace(self.rates, longest=most)

    def restore(self, job: Restore) -> Restored:
        """Put captured bytes back from position `start` on; a refusal leaves what is before it, or nothing."""
        seq_id, start = job.seq_id, job.start
        status = RestoreStatus.UNABLE
        # After a refused row, those that follow do not fit on.
        began = self._clock()
        if job.payload is not None and self.length(seq_id) >= start and self.cut(seq_id, start):
            self._recorder.begin("restore", (job.request_id,), job.end - start)
            began = self._clock()
            with suppress(MemoryError):
                status = self._backend.restore(seq_id, start, job.end, job.payload)
        if status:
            self.rates = copied_into(self.rates, job.end - start, self._clock() - began)
        bad = status is RestoreStatus.BAD_BYTES
        return Restored(job.request_id, job.end, bool(status), self.length(seq_id), bad)

    def fork(self, job: Fork) -> Forked:
        """Share what a sequence holds of its first `length` cells with another."""
        self._recorder.begin("fork", (job.request_id,), job.length)
        length = min(job.length, self.length(job.source))
        shared = length > 0 and self._backend.share(job.source, job.seq_id, length)
        return Forked(job.request_id, length if shared else 0)

    def cut(self, seq_id: int, length: int) -> bool:
        """Whether a sequence could be made to hold exactly its first `length` tokens."""
        self._recorder.begin("free")
        return self._backend.remove(seq_id, length, -1) and self.length(seq_id) == length

    def length(self, seq_id: int) -> int:
        """How many tokens a sequence holds."""
        return self._backend.positions(seq_id)[1] + 1
