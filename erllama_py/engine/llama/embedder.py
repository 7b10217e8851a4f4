"""A llama.cpp context that gives embeddings. One thread.

Vectors are taken token by token and pooled by `engine.pooling`: one context serves every pooling, and an input of a
causal model may be longer than a batch. Only `ranks` leaves the pooling to llama.cpp, which applies the model's head.

llama.cpp ends the process where a model without a KV cache, or one whose tokens see those after them, gets more tokens
than a micro-batch takes: here a micro-batch is a batch, and no batch is longer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import msgspec

from erllama_py.engine.backend import BackendFailure, FileFacts
from erllama_py.engine.embedding import EmbedderFacts, EmbedderOpts, NoRoom, Part
from erllama_py.engine.llama.first_look import ProbeEmbedder
from erllama_py.engine.llama.logs import LogContext
from erllama_py.engine.llama.native import AbortFlag, Library
from erllama_py.engine.llama.weights import Weights, context_params, make_context
from erllama_py.errors import ModelLoadError, ModelNotLoaded
from erllama_py.options.model import ModelConfig

NO_POOLING, RANK_POOLING = 0, 4  # llama_pooling_type
_DONE, _ABORTED = 0, 2

# Inputs of one decode. Each costs a row of the attention mask; a recurrent model keeps a whole state for each.
MOST_INPUTS, MOST_STATES = 64, 4
# llama.cpp computes the logits of every token too, whether they are read or not: a batch of them must stay small.
LOGIT_BYTES = 64 << 20
LEAST_BATCH = 32
# Cells that a causal model's context begins with: texts are seldom longer, and all of the model's may be gigabytes.
FIRST_CELLS = 1024


class LlamaEmbedder:
    """See `Embedder`; it holds `weights` from here on."""

    def __init__(
        self, library: Library, weights: Weights, config: ModelConfig, model_id: str, file: FileFacts,
        opts: EmbedderOpts, probe: ProbeEmbedder,
    ) -> None:  # fmt: skip
        self._library, self._weights, self._config, self._model_id = library, weights, config, model_id
        self._file, self._opts = file, opts
        self._abort = AbortFlag(library)
        self._handle: Any = None
        self._memory: Any = None
        self._facts: EmbedderFacts
        self._log = LogContext(model_id, hold=True)
        self._closed = self._aborted = False
        self._probe = probe

    def load(self) -> EmbedderFacts:
        """See `Embedder.load`."""
        if self._closed:
            raise ModelNotLoaded(self._model_id)
        c, model = self._library.c, self._weights.model
        has_states = bool(c.llama_model_is_recurrent(model) or c.llama_model_is_hybrid(model))
        n_vocab = self._weights.vocabulary.n_vocab
        width = 1 if self._opts.ranks else int(c.llama_model_n_embd_out(model))
        self._facts = facts = sizes(self._config, self._file, n_vocab, width, has_states=has_states)
        n_ctx = facts.n_ctx or facts.n_batch
        params = context_params(self._library, self._config_for(n_ctx), self._abort)
        params.embeddings, params.pooling_type = True, self._pooling
        self._probe(params, lambda: not self._aborted)
        self._make_context(n_ctx)
        self._make_batch()
        return facts

    @property
    def _pooling(self) -> int:
        return RANK_POOLING if self._opts.ranks else NO_POOLING

    def _config_for(self, n_ctx: int) -> ModelConfig:
        facts = self._facts
        context = msgspec.structs.replace(
            self._config.context_opts, n_ctx=n_ctx, n_batch=facts.n_batch,
            n_ubatch=facts.n_batch, n_seq_max=facts.n_seq_max, n_threads=self._opts.threads,
            n_threads_batch=self._opts.threads,
        )  # fmt: skip
        return msgspec.structs.replace(self._config, context_opts=context)

    def _make_context(self, n_ctx: int) -> None:
        config, self._cells = self._config_for(n_ctx), n_ctx
        self._handle, _ = make_context(
            self._library, str(config.model_path), config, self._model_id, self._weights.model, self._abort,
            pooling=self._pooling,
        )  # fmt: skip
        self._memory = self._library.c.llama_get_memory(self._handle)

    def reserve(self, tokens: int) -> None:
        """See `Embedder.reserve`."""
        facts = self._facts
        if not facts.splits or tokens + facts.n_batch <= self._cells:
            return
        handle, cells, self._handle, self._memory = self._handle, self._cells, None, None
        self._library.c.llama_free(handle)  # first, so that there is room for the larger one
        try:
            self._make_context(cells_for(tokens, self._config.context_opts.cells) + facts.n_batch)
        except ModelLoadError as error:
            self._make_context(cells)
            raise NoRoom(error.problem) from error

    def _make_batch(self) -> None:
        numpy, size = self._library.numpy, self._facts.n_batch
        self._tokens, self._positions, self._sequences = (numpy.zeros(size, "i4") for _ in range(3))
        ones, outputs = numpy.ones(size, "i4"), numpy.ones(size, "i1")
        # Each token names its sequences by a pointer to a list; ours have one entry, in `_sequences`.
        base = self._sequences.ctypes.data
        pointers = numpy.arange(base, base + 4 * size, 4, dtype="u8")
        self._kept = ones, outputs, pointers  # the batch holds their addresses
        int32, int8 = ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(ctypes.c_int8)
        self._batch = self._library.c.llama_batch(
            0, self._tokens.ctypes.data_as(int32), None, self._positions.ctypes.data_as(int32),
            ones.ctypes.data_as(int32), pointers.ctypes.data_as(ctypes.POINTER(int32)), outputs.ctypes.data_as(int8),
        )  # fmt: skip

    def compute(self, parts: Sequence[Part]) -> Any:
        """See `Embedder.compute`. What llama.cpp would answer by ending the process is checked here."""
        if self._handle is None:
            raise BackendFailure("there is no context")
        count = self._fill(parts)
        with self._log as log:
            code = self._library.c.llama_decode(self._handle, self._batch)
        log.release(expected=code in (_DONE, _ABORTED))
        if code == _ABORTED:
            for part in parts:
                self.forget(part.seq_id)
            return None
        if code != _DONE:
            raise BackendFailure(f"llama_decode answered {code}: {log.problem('no reason given')}")
        rows = self._scores(parts) if self._opts.ranks else self._rows(count)
        for part in parts:
            if part.last:
                self.forget(part.seq_id)
        return rows

    def _fill(self, parts: Sequence[Part]) -> int:
        facts, row = self._facts, 0
        for part in parts:
            end, stop = row + len(part.tokens), part.start + len(part.tokens)
            whole = facts.splits or (part.start == 0 and part.last)
            fits = row < end <= facts.n_batch and part.start >= 0 and stop <= facts.longest
            if not fits or not whole or not 0 <= part.seq_id < facts.n_seq_max:
                raise BackendFailure(
                    f"{len(part.tokens)} tokens of sequence {part.seq_id} do not fit from {part.start}"
                )
            self._tokens[row:end] = part.tokens
            self._positions[row:end] = range(part.start, stop)
            self._sequences[row:end] = part.seq_id
            row = end
        self._batch.n_tokens = row
        return row

    def _rows(self, count: int) -> Any:
        address = self._library.c.llama_get_embeddings(self._handle)
        if not address:
            raise BackendFailure("llama.cpp has no embeddings for the last decode")
        # Not by `numpy.ctypeslib.as_array`: it makes a type for each count, which ctypes never gives up.
        values = (ctypes.c_float * (count * self._facts.width)).from_address(ctypes.addressof(address.contents))
        return self._library.numpy.frombuffer(values, "f4").reshape(count, self._facts.width)

    def _scores(self, parts: Sequence[Part]) -> Any:
        """The first of a head's outputs, as llama.cpp's own server takes it."""
        scores = []
        for part in parts:
            if part.last:
                address = self._library.c.llama_get_embeddings_seq(self._handle, part.seq_id)
                if not address:
                    raise BackendFailure("llama.cpp has no score for the last decode")
                scores.append([address[0]])
        return self._library.numpy.array(scores, "f4").reshape(-1, 1)

    def forget(self, seq_id: int) -> None:
        """See `Embedder.forget`."""
        if self._memory:
            self._library.c.llama_memory_seq_rm(self._memory, seq_id, -1, -1)

    def rest(self) -> None:
        """See `Embedder.rest`."""
        self._library.give_back_threads()

    def abort(self, flag: bool) -> None:
        """See `Embedder.abort`."""
        self._aborted = flag
        self._abort.set(flag)

    def close(self) -> None:
        """See `Embedder.close`."""
        if self._closed:
            return
        self._closed = True
        handle, self._handle, self._memory = self._handle, None, None
        with LogContext(self._model_id):
            if handle:
                self._library.c.llama_free(handle)
            self._weights.release()


def sizes(config: ModelConfig, file: FileFacts, n_vocab: int, width: int, *, has_states: bool) -> EmbedderFacts:
    """What the context of a model takes. Pure.

    An encoder has no cells and sees an input whole. A causal model keeps cells for an input of some length, at first,
    and for a batch of others beside it.
    """
    options = config.context_opts
    inputs = MOST_STATES if has_states else MOST_INPUTS
    if file.embeds_only:
        n_batch = options.n_batch
        longest = min(n_batch, file.n_ctx_train) if file.n_ctx_train else n_batch
        n_ctx, splits = (n_batch if file.kv_bytes_per_token else 0), False
    else:
        n_batch = min(options.n_batch, max(LEAST_BATCH, LOGIT_BYTES // (4 * n_vocab)))
        longest, n_ctx, splits = options.cells, cells_for(FIRST_CELLS, options.cells) + n_batch, True
    return EmbedderFacts(
        width=width, n_batch=n_batch, n_seq_max=min(inputs, n_batch), longest=longest, splits=splits, n_ctx=n_ctx
    )


def cells_for(tokens: int, n_ctx: int) -> int:
    """Cells for an input of so many tokens, in few steps up to the model's own number. Pure."""
    return min(n_ctx, 1 << (tokens - 1).bit_length())
