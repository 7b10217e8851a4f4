"""The floor of embeddings: texts in, vectors out, over ctypes, in batches that are as full as they can be.

llama.cpp pools; nothing is checked, and nobody else may ask.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import llama_cpp
import numpy
from fresh import Answer
from llama_cpp._logger import set_verbose

MEAN = 1  # LLAMA_POOLING_TYPE_MEAN
SEQUENCES = 64


class BareEmbed:
    """One model, one context for embeddings, one batch that is filled again and again."""

    def __init__(self, path: Path, n_batch: int, n_threads: int) -> None:
        set_verbose(False)
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = n_batch
        params.n_seq_max, params.kv_unified, params.embeddings, params.pooling_type = SEQUENCES, True, True, MEAN
        params.n_threads = params.n_threads_batch = n_threads
        assert self.model is not None
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.width = llama_cpp.llama_model_n_embd(self.model)
        self.n_batch = n_batch
        self.batch = llama_cpp.llama_batch_init(n_batch, 0, 1)

    def run(self, texts: Sequence[str]) -> tuple[float, bytes]:
        """Seconds for all of them, and their vectors."""
        began, vectors = time.perf_counter(), numpy.empty((len(texts), self.width), "f4")
        first = rows = 0
        for index, text in enumerate(texts):
            tokens = self._tokenize(text)
            if rows + len(tokens) > self.n_batch or index - first == SEQUENCES:
                self._decode(rows, vectors[first:index])
                first, rows = index, 0
            for position, token in enumerate(tokens):
                self._put(rows + position, token, position, index - first)
            rows += len(tokens)
        self._decode(rows, vectors[first:])
        vectors /= numpy.linalg.norm(vectors, axis=1, keepdims=True)
        return time.perf_counter() - began, vectors.tobytes()

    def _tokenize(self, text: str) -> list[int]:
        data = text.encode()
        room = len(data) + 16
        buffer = (ctypes.c_int32 * room)()
        count = llama_cpp.llama_tokenize(self.vocabulary, data, len(data), buffer, room, True, False)
        return buffer[:count]

    def _put(self, row: int, token: int, position: int, seq_id: int) -> None:
        batch = self.batch
        batch.token[row], batch.pos[row], batch.logits[row] = token, position, True
        batch.n_seq_id[row], batch.seq_id[row][0] = 1, seq_id

    def _decode(self, rows: int, out: numpy.ndarray) -> None:
        self.batch.n_tokens = rows
        if llama_cpp.llama_decode(self.context, self.batch) != 0:
            raise RuntimeError("the bare loop's decode failed")
        for seq_id in range(len(out)):
            out[seq_id] = numpy.ctypeslib.as_array(
                llama_cpp.llama_get_embeddings_seq(self.context, seq_id), (self.width,)
            )


@asynccontextmanager
async def embedding(path: Path, n_batch: int, n_threads: int) -> AsyncIterator[Answer]:
    """A part: answers with what `BareEmbed.run` says."""
    loop = BareEmbed(path, n_batch, n_threads)

    async def answer(texts: Sequence[str]) -> tuple[float, bytes]:
        return loop.run(texts)

    yield answer
