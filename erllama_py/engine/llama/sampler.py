"""Drawing tokens: one llama.cpp sampler chain for each request, given only what can still be drawn.

llama.cpp's own draw makes a list of all candidates, which costs more than everything else of a tick on a GPU. Here the
row of logits is cut first (`rows`, `steps.cut`), so that the chain draws exactly what it would from all tokens. The
likeliest token, where nothing changes logits, needs no chain at all.

With a grammar we hold all candidates ourselves, because a grammar that allows no token, or is handed one that it does
not allow, makes llama.cpp raise a C++ exception, which ends the process when it reaches Python's frames.
"""

from __future__ import annotations

import ctypes
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from erllama_py.engine.backend import Likeliest
from erllama_py.engine.banned import Banned
from erllama_py.engine.llama import steps
from erllama_py.engine.llama.context import Context
from erllama_py.engine.llama.native import Library
from erllama_py.engine.llama.rows import Rows
from erllama_py.engine.logprobs import of_row, of_some
from erllama_py.errors import SamplerFailed
from erllama_py.options.sampling import Sampling

_CANDIDATE = [("id", "i4"), ("logit", "f4"), ("p", "f4")]  # llama_token_data
_SLACK = 1e-3  # of a logit: the chain computes in 32 bits what is compared here


class Candidates:
    """Tokens with their logits, as a `llama_token_data_array` that samplers work on in place.

    One for each context is enough: a draw fills it again and nothing of it outlives the draw.
    """

    def __init__(self, library: Library, n_vocab: int) -> None:
        self.numpy = library.numpy
        self._all = self.numpy.arange(n_vocab, dtype="i4")
        self.items = self.numpy.zeros(n_vocab, dtype=_CANDIDATE)
        self._ids, self.logits = self.items["id"], self.items["logit"]
        self._data = ctypes.cast(self.items.ctypes.data, library.c.llama_token_data_p)
        self.array = library.c.llama_token_data_array(self._data, n_vocab, -1, False)

    def fill(self, logits: Any, ids: Any = None) -> None:
        """The tokens `ids`, all where it is None, with their logits of a row."""
        size = len(self._all) if ids is None else len(ids)
        self._ids[:size] = self._all if ids is None else ids
        self.logits[:size] = logits if ids is None else logits[ids]
        self.array.data, self.array.size, self.array.selected, self.array.sorted = self._data, size, -1, False

    def left(self) -> tuple[Any, Any]:
        """The tokens that a chain has left, and their logits after it."""
        return self._ids[: self.array.size], self.logits[: self.array.size]

    def selected(self) -> int:
        """The token that a chain has chosen, -1 where it chose none."""
        array = self.array
        return int(self._ids[array.selected]) if 0 <= array.selected < array.size else -1


class LlamaSampler:
    """The chain of one request, a `Sampler`; `grammar` is its grammar step, if it has one. Both belong to it."""

    def __init__(
        self, making: steps.Making, context: Context, candidates: Candidates, sampling: Sampling,
        history: Sequence[int], banned: Banned, grammar: Any, closed: Callable[[LlamaSampler], None],
    ) -> None:  # fmt: skip
        self._c, self._quick, self._numpy = making.library.c, making.library.quick, making.library.numpy
        self._context, self._candidates = context, candidates
        self._n_vocab = making.n_vocab
        self._grammar = grammar
        self._on_close = closed
        self._cut = steps.cut(sampling)
        self._recent: deque[int] = deque(maxlen=steps.window(steps.changes_few(sampling), making.n_ctx))
        self._recent.extend(history)
        self._biased = [token for token, _ in steps.biases(sampling)]
        self._banned, self._drawn = banned, 0
        self._is_greedy = sampling.temperature <= 0.0
        self._last: tuple[Rows, int, int]
        self._is_plain = self._cut == steps.Cut(top=1) and not self._recent.maxlen and not self._biased
        self._chain = make_chain(making, sampling, self._recent)

    def sample(self, index: int) -> int:
        if self._chain is None:
            raise SamplerFailed("the sampler is closed")
        return self._draw(*self._context.rows(index, self._n_vocab))

    def sample_from(self, logits: bytes) -> int:
        """See `Sampler.sample_from`. The same steps as for the logits of a decode."""
        if len(logits) != self._n_vocab * ctypes.sizeof(ctypes.c_float):
            raise SamplerFailed(f"{len(logits)} bytes are not the logits of {self._n_vocab} tokens")
        values = self._numpy.frombuffer(logits, dtype="f4").reshape(1, self._n_vocab)
        return self._draw(Rows(self._numpy, values), 0)

    def likeliest(self, count: int, *, after: bool = False) -> Likeliest:
        """See `Sampler.likeliest`."""
        rows, row, token = self._last
        if not after:
            return of_row(rows.logits[row], token, rows.top(row, max(1, count)), count)
        if self._is_greedy:
            return Likeliest(0.0, [(token, 0.0)][:count])
        ids, logits = self._candidates.left()
        return of_some(ids, logits, token, count)

    def _draw(self, rows: Rows, row: int) -> int:
        if self._chain is None:
            raise SamplerFailed("the sampler is closed")
        banned = self._banned.after(self._drawn)
        token = rows.best(row) if self._grammar is None and self._is_plain else None
        if token == -1 or (token is None and not rows.is_valid(row)):
            raise SamplerFailed("the model's output is not a number")
        if token is None or token in banned:
            token = self._by_chain(rows, row, banned) if self._grammar is None else self._by_grammar(rows, row, banned)
            self._quick.sampler_accept(self._chain, token)
            self._recent.append(token)
        self._drawn += 1
        self._last = rows, row, token
        return token

    def _by_chain(self, rows: Rows, row: int, banned: frozenset[int]) -> int:
        ids = self._ids(rows, row, banned)
        if ids is not None and not len(ids):  # llama.cpp would end the process
            raise SamplerFailed("every token is banned")
        self._candidates.fill(rows.logits[row], ids)
        token = self._apply_chain()
        if token < 0:
            raise SamplerFailed("no token was drawn")
        return token

    def _ids(self, rows: Rows, row: int, banned: frozenset[int]) -> Any:
        """The tokens that can be drawn, ascending, with all whose logits the chain changes; None for all."""
        numpy, (top, near) = self._numpy, self._cut
        changed = numpy.array(sorted({*self._recent, *self._biased} - banned), dtype="i4")
        ids = None
        if top is not None or near is not None:
            # Of the k likeliest of those left after the changes, at most as many as were changed or banned are not
            # among the k likeliest before.
            ids = rows.top(row, (top or 1) + len(changed) + len(banned))
        if near is not None:
            unchanged = _without(numpy, _without(numpy, ids, changed), banned)
            best = float(rows.logits[row][unchanged].max()) if len(unchanged) else -math.inf
            ids = rows.from_logit(row, best - near - _SLACK)
        if ids is None and banned:
            ids = numpy.arange(self._n_vocab, dtype="i4")
        if ids is None:
            return None
        return _without(numpy, numpy.union1d(ids, changed) if len(changed) else ids, banned)

    def _by_grammar(self, rows: Rows, row: int, banned: frozenset[int]) -> int:
        candidates = self._candidates
        candidates.fill(rows.logits[row])
        if banned:
            candidates.logits[list(banned)] = -math.inf
        # The slow step, milliseconds for a large vocabulary: through the function that lets the GIL go.
        self._c.llama_sampler_apply(self._grammar, candidates.array)
        allowed = self._numpy.isfinite(candidates.logits)
        if not allowed.any():
            raise SamplerFailed("the grammar allows no token here")
        token = self._apply_chain()
        if token < 0 or not allowed[token]:
            raise SamplerFailed("no token that the grammar allows was drawn")
        self._quick.sampler_accept(self._grammar, token)
        return token

    def _apply_chain(self) -> int:
        """The token that the chain selects among the candidates, -1 when it selects none."""
        self._quick.sampler_apply(self._chain, self._candidates.array)
        return self._candidates.selected()

    def forced(self) -> list[int]:
        return []

    @property
    def is_over(self) -> bool:
        return False

    def close(self) -> None:
        chain, self._chain = self._chain, None
        grammar, self._grammar = self._grammar, None
        if chain is not None:
            self._c.llama_sampler_free(chain)
            self._on_close(self)
        if grammar is not None:
            self._c.llama_sampler_free(grammar)


def _without(numpy: Any, ids: Any, others: Any) -> Any:
    """`ids` less the others."""
    return ids[numpy.isin(ids, list(others), invert=True)] if len(others) else ids


def make_chain(making: steps.Making, sampling: Sampling, history: Sequence[int]) -> Any:
    """A `llama_sampler *` with every step of a request. Those that look back have seen `history`."""
    c = making.library.c
    chain = c.llama_sampler_chain_init(c.llama_sampler_chain_params(no_perf=True))
    for step in steps.used(sampling):
        sampler = step.make(making, sampling)
        if step.kind == "few":
            for token in history:
                c.llama_sampler_accept(sampler, token)
        c.llama_sampler_chain_add(chain, sampler)
    c.llama_sampler_chain_add(chain, steps.draw(making, sampling))
    return chain
