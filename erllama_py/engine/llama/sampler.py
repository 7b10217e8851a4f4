"""Drawing tokens: one llama.cpp sampler chain for each request, given only what can still be drawn.

llama.cpp's own draw makes a list of all candidates, which costs more than everything else of a tick on a GPU. Here the
row of logits is cut first (`candidates`), so that the chain draws exactly what it would from all tokens. The
likeliest token, where nothing changes logits, needs no chain at all.

Under a structure only the tokens that it allows are candidates; the rest is the same. The likeliest token of all is
looked at first: mostly the structure allows it.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

from erllama_py.engine.backend import Likeliest, SpoiledLogits
from erllama_py.engine.banned import Banned
from erllama_py.engine.llama import steps
from erllama_py.engine.llama.candidates import Candidates, Cutter
from erllama_py.engine.llama.chain import Chain
from erllama_py.engine.llama.context import Context
from erllama_py.engine.llama.rows import Rows
from erllama_py.engine.logprobs import of_some
from erllama_py.engine.structure import Matcher
from erllama_py.errors import SamplerFailed
from erllama_py.options.sampling import Sampling


class LlamaSampler:
    """The chain of one request, a `Sampler`, and the matcher of its structure, if it has one. Both belong to it."""

    def __init__(
        self, making: steps.Making, context: Context, candidates: Candidates, sampling: Sampling,
        history: Sequence[int], banned: Banned, matcher: Matcher | None, closed: Callable[[LlamaSampler], None],
    ) -> None:  # fmt: skip
        self._numpy = making.library.numpy
        self._context, self._candidates = context, candidates
        self._n_vocab = making.n_vocab
        self._matcher = matcher
        self._on_close = closed
        self._cutter = Cutter(making, sampling, history)
        self._banned, self._drawn = banned, 0
        self._takes_likeliest = sampling.temperature <= 0.0 or self._cutter.is_plain
        self._last: tuple[Rows, int, int]
        # The first step is then taken here, and is not in the chain.
        self._top_p = sampling.top_p if matcher is None and steps.leads_with_top_p(sampling) else None
        without = 0 if self._top_p is None else 1
        self._chain: Chain | None = Chain(making, sampling, self._cutter.recent, without=without)

    def sample(self, index: int) -> int:
        if self._chain is None:
            raise SamplerFailed("the sampler is closed")
        rows, places = self._context.rows(index, self._n_vocab)
        return self._draw(rows, places[-1])

    def sample_from(self, logits: bytes) -> int:
        """See `Sampler.sample_from`. The same steps as for the logits of a decode."""
        if len(logits) != self._n_vocab * ctypes.sizeof(ctypes.c_float):
            raise SpoiledLogits(f"{len(logits)} bytes are not the logits of {self._n_vocab} tokens")
        values = self._numpy.frombuffer(logits, dtype="f4").reshape(1, self._n_vocab)
        return self._draw(Rows(self._numpy, values), 0)

    def likeliest(self, count: int, *, after: bool = False) -> Likeliest:
        """See `Sampler.likeliest`."""
        rows, row, token = self._last
        if not after:
            return rows.likeliest(row, token, count)
        if self._takes_likeliest:
            return Likeliest(0.0, [(token, 0.0)][:count])
        ids, logits = self._candidates.left()
        return of_some(ids, logits, token, count)

    def _draw(self, rows: Rows, row: int) -> int:
        if self._chain is None:
            raise SamplerFailed("the sampler is closed")
        banned = self._banned.after(self._drawn)
        token = rows.best(row) if self._cutter.is_plain else None
        if token == -1 or (token is None and not rows.is_valid(row)):
            raise SpoiledLogits("the model's output is not a number")
        if token is None or token in banned or not (self._matcher is None or self._matcher.allows(token)):
            token = self._by_chain(self._chain, rows, row, banned)
            self._accept(self._chain, token)
        if self._matcher is not None:
            self._matcher.accept(token)
        self._drawn += 1
        self._last = rows, row, token
        return token

    def _accept(self, chain: Chain, token: int) -> None:
        chain.accept(token)
        self._cutter.saw(token)

    def _by_chain(self, chain: Chain, rows: Rows, row: int, banned: frozenset[int]) -> int:
        if self._top_p is not None:
            ids = self._nucleus(rows, row, self._top_p, banned)
        elif self._matcher is None:
            ids = self._cutter.ids(rows, row, banned)
        else:
            ids = self._cutter.ids_among(self._matcher.allowed(self._n_vocab), rows, row, banned)
        if ids is not None and not len(ids):  # llama.cpp would end the process
            raise SamplerFailed("every token is banned")
        self._candidates.fill(rows.logits[row], ids, is_sorted=self._top_p is not None)
        chain.apply(self._candidates.array)
        token = self._candidates.selected()
        if token < 0:
            raise SamplerFailed("no token was drawn")
        return token

    def _nucleus(self, rows: Rows, row: int, mass: float, banned: frozenset[int]) -> Any:
        if banned:
            logits = rows.logits[row].copy()
            logits[list(banned)] = -math.inf
            rows, row = Rows(self._numpy, logits.reshape(1, -1)), 0
        return rows.nucleus(row, mass)

    def forced(self) -> list[int]:
        """See `Sampler.forced`."""
        if self._matcher is None or self._chain is None:
            return []
        tokens = self._matcher.forced()
        for token in tokens if not self._cutter.is_plain else ():
            self._accept(self._chain, token)
        self._drawn += len(tokens)
        return tokens

    def accept(self, tokens: Sequence[int]) -> None:
        """See `Sampler.accept`."""
        if self._chain is None:
            raise SamplerFailed("the sampler is closed")
        for token in tokens:
            if self._matcher is not None:
                self._matcher.accept(token)
            if not self._cutter.is_plain:
                self._accept(self._chain, token)
        self._drawn += len(tokens)

    @property
    def used(self) -> tuple[int | float, ...]:
        """See `Sampler.used`."""
        return () if self._chain is None else self._chain.used

    def replay(self, tokens: Sequence[int], used: tuple[int | float, ...]) -> None:
        """See `Sampler.replay`. Exact but for Mirostat and adaptive-p where their state is not found (`levels`)."""
        self.accept(tokens)
        if self._chain is not None:
            self._chain.go_on(used)

    @property
    def is_over(self) -> bool:
        """See `Sampler.is_over`."""
        return self._matcher is not None and self._matcher.is_over

    def close(self) -> None:
        chain, self._chain, self._matcher = self._chain, None, None
        if chain is not None:
            chain.close()
            self._on_close(self)
