"""The floor of a restore: read the bytes of rows from their files, hand them to llama.cpp, decode one token.

Over llama-cpp-python's ctypes functions, span by span as the rows are cut, with one buffer that is used again and
nothing checked.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import llama_cpp
from bare import BareLoop
from fresh import Answer
from opened import N_CTX, N_THREADS, identity_of

from erllama_py import Model, Runtime
from erllama_py.serve.models import fetch
from erllama_py.tiers import row_file

SCRATCH = 1  # the sequence that spans pass through
MEASURED = 64  # tokens between two sizes of a state, to tell what each takes


class Span(NamedTuple):
    """Where the KV bytes of `[start, end)` lie."""

    path: Path
    offset: int
    nbytes: int
    start: int
    end: int


async def spans_of(runtime: Runtime, model: Model, tokens: Sequence[int], root: Path) -> list[Span]:
    """The files of the rows that the tier at `root` has of `tokens`."""
    spans = []
    for key, _ in (await runtime.cache.find(identity_of(model), tokens)).rows:
        path = root / "rows" / row_file.file_name(bytes.fromhex(key))
        with path.open("rb") as file:
            header = row_file.decode_header(file.read(row_file.HEAD_BYTES), path.stat().st_size, path.name)
        meta = header.meta
        spans.append(Span(path, header.layout.payload_offset, meta.payload_bytes, meta.start, meta.end))
    return spans


class BareCells(BareLoop):
    """The bare loop with a sequence that it fills from files."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, N_CTX, N_THREADS, n_seq_max=2)
        self._buffer = (ctypes.c_uint8 * 0)()

    def first_token(self, spans: Sequence[Span], token: int) -> tuple[float, float]:
        """Seconds until the spans are in the cells, and until the token after `token` is sampled."""
        llama_cpp.llama_memory_seq_rm(self.memory, 0, -1, -1)
        if (most := max(span.nbytes for span in spans)) > len(self._buffer):
            self._buffer = (ctypes.c_uint8 * most)()
        began = time.perf_counter()
        for span in spans:
            self._restore(span)
        restored = time.perf_counter()
        self.decode([token])
        llama_cpp.llama_sampler_sample(self.sampler, self.context, -1)
        return restored - began, time.perf_counter() - restored

    def _restore(self, span: Span) -> None:
        with span.path.open("rb", buffering=0) as file:
            file.seek(span.offset)
            file.readinto(memoryview(self._buffer)[: span.nbytes])
        pointer = ctypes.cast(self._buffer, ctypes.POINTER(ctypes.c_uint8))
        if llama_cpp.llama_state_seq_set_data(self.context, pointer, span.nbytes, SCRATCH) != span.nbytes:
            raise RuntimeError("the bare loop could not restore a span")
        llama_cpp.llama_memory_seq_cp(self.memory, SCRATCH, 0, span.start, span.end)
        llama_cpp.llama_memory_seq_rm(self.memory, SCRATCH, -1, -1)

    def state_bytes(self, tokens: int) -> float:
        """What llama.cpp writes of a sequence of so many tokens; without a recurrent state, a multiple of a token's."""
        per_token = self.bytes_per_token()
        size = llama_cpp.llama_state_seq_get_size(self.context, 0) - 2 * MEASURED * per_token
        return float(size + tokens * per_token)

    def bytes_per_token(self) -> float:
        """What llama.cpp writes for each token of a sequence, the cells of a window all there."""
        sizes = []
        llama_cpp.llama_memory_seq_rm(self.memory, 0, -1, -1)
        for _ in range(2):
            self.decode([1] * MEASURED)
            sizes.append(llama_cpp.llama_state_seq_get_size(self.context, 0))
        return float(sizes[1] - sizes[0]) / MEASURED


@asynccontextmanager
async def restoring(name: str) -> AsyncIterator[Answer]:
    """A part: answers with what `BareCells.first_token` says."""
    cells = BareCells(fetch(name))
    cells.run([1, 1], 8)  # the first decodes of a process are slow

    async def answer(spans: Sequence[Span], token: int) -> tuple[float, float]:
        return cells.first_token(spans, token)

    yield answer


@asynccontextmanager
async def sizing(name: str) -> AsyncIterator[Answer]:
    """A part: answers with the bytes of a token's KV state."""
    cells = BareCells(fetch(name))

    async def answer() -> float:
        return cells.bytes_per_token()

    yield answer


@asynccontextmanager
async def weighing(path: str) -> AsyncIterator[Answer]:
    """A part: answers with the bytes of the state of so many tokens, the cells of a window all there."""
    cells = BareCells(Path(path))

    async def answer(tokens: int) -> float:
        return cells.state_bytes(tokens)

    yield answer
