"""Drawing tokens: one llama.cpp sampler chain for each request.

The steps are grammar, repetition penalty, top_k, top_p, min_p, temperature and the seeded draw; steps whose
value makes no difference are left out. Without a grammar llama.cpp does the whole draw. With one we hold the
candidates ourselves, because a grammar that allows no token, or is handed one that it does not allow, makes
llama.cpp raise a C++ exception, which ends the process when it reaches Python's frames.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from erllama_py.engine.backend import REPETITION_WINDOW, Sampling
from erllama_py.engine.llama.context import Context
from erllama_py.engine.llama.native import Library
from erllama_py.errors import SamplerFailed

_CANDIDATE = [("id", "i4"), ("logit", "f4"), ("p", "f4")]  # llama_token_data
_RANDOM_SEED = 0xFFFFFFFF  # llama.cpp takes this one for "any"; a seed of ours always means the same draws


class Candidates:
    """All tokens with their logits, as a `llama_token_data_array` that samplers work on in place.

    One for each context is enough: a draw fills it again and nothing of it outlives the draw.
    """

    def __init__(self, library: Library, n_vocab: int) -> None:
        self.numpy = library.numpy
        self._ids = self.numpy.arange(n_vocab, dtype="i4")
        self.items = self.numpy.zeros(n_vocab, dtype=_CANDIDATE)
        self._data = ctypes.cast(self.items.ctypes.data, library.c.llama_token_data_p)
        self.array = library.c.llama_token_data_array(self._data, n_vocab, -1, False)

    def fill(self, logits: int) -> None:
        """Every token with the logit at the address `logits`, in order of their ids."""
        size = len(self._ids)
        self._fill(self.numpy.frombuffer((ctypes.c_float * size).from_address(logits), dtype="f4"))

    def fill_from(self, logits: bytes) -> None:
        """The same with kept logits. Raises `SamplerFailed` where they are not of this vocabulary, or no numbers."""
        size = len(self._ids)
        if len(logits) != size * ctypes.sizeof(ctypes.c_float):
            raise SamplerFailed(f"{len(logits)} bytes are not the logits of {size} tokens")
        values = self.numpy.frombuffer(logits, dtype="f4")
        if self.numpy.isnan(values[0]):
            raise SamplerFailed("the model's output is not a number")
        self._fill(values)

    def _fill(self, logits: Any) -> None:
        size = len(self._ids)
        self.items["id"] = self._ids
        self.items["logit"] = logits
        self.array.data, self.array.size, self.array.selected, self.array.sorted = self._data, size, -1, False


class LlamaSampler:
    """The chain of one request, a `Sampler`; `grammar` is its grammar step, if it has one. Both belong to it."""

    def __init__(
        self, library: Library, context: Context, candidates: Candidates, sampling: Sampling, history: Sequence[int],
        grammar: Any, closed: Callable[[LlamaSampler], None],
    ) -> None:  # fmt: skip
        self._c, self._quick = library.c, library.quick
        self._context, self._candidates = context, candidates
        self._grammar = grammar
        self._on_close = closed
        self._chain = make_chain(library, len(candidates.items), sampling, history)

    def sample(self, index: int) -> int:
        if self._chain is None:
            raise SamplerFailed("the sampler is closed")
        row = self._context.row(index)
        logits = self._context.logits(row)
        if not logits:
            raise SamplerFailed("the model's output is not a number")
        if self._grammar is None:
            return int(self._quick.sampler_sample(self._chain, self._context.handle, row))
        self._candidates.fill(logits)
        return self._draw_by_grammar()

    def sample_from(self, logits: bytes) -> int:
        """See `Sampler.sample_from`. The same steps as llama.cpp's own draw from a context."""
        if self._chain is None:
            raise SamplerFailed("the sampler is closed")
        self._candidates.fill_from(logits)
        if self._grammar is not None:
            return self._draw_by_grammar()
        token = self._apply_chain()
        if token < 0:
            raise SamplerFailed("no token was drawn")
        self._quick.sampler_accept(self._chain, token)
        return token

    def _draw_by_grammar(self) -> int:
        candidates = self._candidates
        # The slow step, milliseconds for a large vocabulary: through the function that lets the GIL go.
        self._c.llama_sampler_apply(self._grammar, candidates.array)
        allowed = candidates.numpy.isfinite(candidates.items["logit"])
        if not allowed.any():
            raise SamplerFailed("the grammar allows no token here")
        token = self._apply_chain()
        if token < 0 or not allowed[token]:
            raise SamplerFailed("no token that the grammar allows was drawn")
        self._quick.sampler_accept(self._grammar, token)
        self._quick.sampler_accept(self._chain, token)
        return token

    def _apply_chain(self) -> int:
        """The token that the chain selects among the candidates, -1 when it selects none."""
        candidates, array = self._candidates, self._candidates.array
        self._quick.sampler_apply(self._chain, array)
        return int(candidates.items["id"][array.selected]) if 0 <= array.selected < array.size else -1

    def close(self) -> None:
        chain, self._chain = self._chain, None
        grammar, self._grammar = self._grammar, None
        if chain is not None:
            self._c.llama_sampler_free(chain)
            self._on_close(self)
        if grammar is not None:
            self._c.llama_sampler_free(grammar)


def make_chain(library: Library, n_vocab: int, sampling: Sampling, history: Sequence[int]) -> Any:
    """A `llama_sampler *` with every step after the grammar. The penalty has seen `history`."""
    c = library.c
    chain = c.llama_sampler_chain_init(c.llama_sampler_chain_params(no_perf=True))
    if sampling.repetition_penalty != 1.0:
        penalty = c.llama_sampler_init_penalties(n_vocab, REPETITION_WINDOW, sampling.repetition_penalty, 0.0, 0.0)
        for token in history[-REPETITION_WINDOW:]:
            c.llama_sampler_accept(penalty, token)
        c.llama_sampler_chain_add(chain, penalty)
    if sampling.temperature <= 0.0:
        c.llama_sampler_chain_add(chain, c.llama_sampler_init_greedy())
        return chain
    if sampling.top_k > 0:
        c.llama_sampler_chain_add(chain, c.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1.0:
        c.llama_sampler_chain_add(chain, c.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0.0:
        c.llama_sampler_chain_add(chain, c.llama_sampler_init_min_p(sampling.min_p, 1))
    if sampling.temperature != 1.0:
        c.llama_sampler_chain_add(chain, c.llama_sampler_init_temp(sampling.temperature))
    seed = sampling.seed & 0xFFFFFFFF
    c.llama_sampler_chain_add(chain, c.llama_sampler_init_dist(seed if seed != _RANDOM_SEED else 0))
    return chain
