"""Draws without a model's decode: rows of logits as arrays, our sampler, and llama.cpp's own chain beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from erllama_py.engine.banned import Banned
from erllama_py.engine.llama.candidates import Candidates
from erllama_py.engine.llama.chain import make_chain
from erllama_py.engine.llama.dry import DrySamplers
from erllama_py.engine.llama.native import Library
from erllama_py.engine.llama.rows import Rows
from erllama_py.engine.llama.sampler import LlamaSampler
from erllama_py.engine.llama.steps import Making
from erllama_py.engine.structure import Matcher
from erllama_py.options.sampling import Sampling

NOTHING = Banned(frozenset(), frozenset(), 0)


class Decoded:
    """In place of a context: the rows of its last decode."""

    def __init__(self) -> None:
        self.logits = np.zeros((0, 0), "f4")
        self.last = Rows(np, self.logits)

    def show(self, logits: Any) -> None:
        """From now on these are the rows."""
        self.logits = np.ascontiguousarray(logits, "f4")
        self.last = Rows(np, self.logits)

    def rows(self, index: int, n_vocab: int) -> tuple[Rows, range]:
        """See `Context.rows`."""
        assert self.logits.shape[1] == n_vocab
        return self.last, range(index, index + 1)


class Draws:
    """Samplers over rows of `n_vocab` tokens. `vocabulary` is a `llama_vocab *`; only DRY asks it."""

    def __init__(self, library: Library, n_vocab: int, vocabulary: Any = None, n_ctx: int = 512) -> None:
        self.library = library
        self.making = Making(library, n_vocab, n_ctx, DrySamplers(library, vocabulary, tuple))
        self.decoded = Decoded()
        self._candidates = Candidates(library, n_vocab)

    def sampler(
        self, sampling: Sampling, history: Sequence[int] = (), banned: Banned = NOTHING, matcher: Matcher | None = None
    ) -> LlamaSampler:
        """Ours."""
        context: Any = self.decoded
        return LlamaSampler(
            self.making, context, self._candidates, sampling, history, banned, matcher, lambda sampler: None
        )

    def chain(
        self, sampling: Sampling, history: Sequence[int] = (), banned: Banned = NOTHING, masks: Any = None
    ) -> Chain:
        """llama.cpp's; `masks` says for each draw which tokens it may give."""
        return Chain(self, sampling, history, banned, masks)


class Chain:
    """llama.cpp's chain, given all tokens that are not banned."""

    def __init__(
        self, draws: Draws, sampling: Sampling, history: Sequence[int], banned: Banned, masks: Any = None
    ) -> None:
        self._masks = masks
        self._library, self._decoded = draws.library, draws.decoded
        self._candidates = Candidates(draws.library, draws.making.n_vocab)
        self._all = np.arange(draws.making.n_vocab, dtype="i4")
        self._chain = make_chain(draws.making, sampling, history)
        self._banned, self._drawn = banned, 0

    def sample(self, index: int) -> int:
        """The token that it draws from a row."""
        banned = self._banned.after(self._drawn)
        allowed = np.setdiff1d(self._all, list(banned)) if banned else None
        if self._masks is not None:
            allowed = np.setdiff1d(np.flatnonzero(self._masks[self._drawn]), list(banned)).astype("i4")
        self._candidates.fill(self._decoded.logits[index], allowed)
        self._library.quick.sampler_apply(self._chain, self._candidates.array)
        token = self._candidates.selected()
        self._library.quick.sampler_accept(self._chain, token)
        self._drawn += 1
        return token

    def close(self) -> None:
        """Free it."""
        self._library.c.llama_sampler_free(self._chain)
