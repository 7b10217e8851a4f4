"""Which tokens of a row the chain of a request must be given, and the list of them that it works on.

The chain draws the same token from the whole vocabulary and from the few tokens that can still be drawn (`steps.cut`)
together with all whose logits it changes: those that it looks back on, and biased ones.
"""

from __future__ import annotations

import ctypes
import math
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from erllama_py.engine.llama import steps
from erllama_py.engine.llama.native import Library
from erllama_py.engine.llama.rows import Rows
from erllama_py.options.sampling import Sampling

_CANDIDATE = [("id", "i4"), ("logit", "f4"), ("p", "f4")]  # llama_token_data
_SLACK = 1e-3  # of a logit: the chain computes in 32 bits what is compared here
_FEW = 256  # tokens that a structure allows: to cut so short a list costs more than it saves


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

    def fill(self, logits: Any, ids: Any = None, *, is_sorted: bool = False) -> None:
        """The tokens `ids`, all where it is None, with their logits of a row; `is_sorted`: the likeliest first."""
        size = len(self._all) if ids is None else len(ids)
        self._ids[:size] = self._all if ids is None else ids
        self.logits[:size] = logits if ids is None else logits[ids]
        self.array.data, self.array.size, self.array.selected, self.array.sorted = self._data, size, -1, is_sorted

    def left(self) -> tuple[Any, Any]:
        """The tokens that a chain has left, and their logits after it."""
        return self._ids[: self.array.size], self.logits[: self.array.size]

    def selected(self) -> int:
        """The token that a chain has chosen, -1 where it chose none."""
        array = self.array
        return int(self._ids[array.selected]) if 0 <= array.selected < array.size else -1


class Cutter:
    """The candidates of one request, draw by draw. `history` is what its chain looks back on, the newest last."""

    def __init__(self, making: steps.Making, sampling: Sampling, history: Sequence[int]) -> None:
        self._numpy, self._n_vocab = making.library.numpy, making.n_vocab
        self._cut = steps.cut(sampling)
        window = steps.window(steps.changes_few(sampling), making.n_ctx)
        self.recent: deque[int] = deque(history, maxlen=window)
        biased = [token for token, _ in steps.biases(sampling)]
        # How often the chain has a reason to change a token's logit; the same as a mask.
        self._changed = Counter([*self.recent, *biased])
        self._is_changed = self._numpy.zeros(self._n_vocab, dtype=bool)
        self._is_changed[list(self._changed)] = True
        self._banned: frozenset[int] = frozenset()
        self._is_banned: Any = None
        self.is_plain = self._cut == steps.Cut(top=1) and not window and not biased

    def saw(self, token: int) -> None:
        """The chain has accepted a token."""
        recent, changed = self.recent, self._changed
        if not recent.maxlen:
            return
        if len(recent) == recent.maxlen:
            oldest = recent[0]
            changed[oldest] -= 1
            if not changed[oldest]:
                del changed[oldest]
                self._is_changed[oldest] = False
        recent.append(token)
        changed[token] += 1
        self._is_changed[token] = True

    def ids(self, rows: Rows, row: int, banned: frozenset[int]) -> Any:
        """The tokens that can be drawn, ascending, with all whose logits the chain changes; None for all."""
        numpy, (top, near) = self._numpy, self._cut
        free: Any
        if top is None and near is None:
            free = self._free(numpy.arange(self._n_vocab, dtype="i4"), banned) if banned else None
        else:
            # Of the k likeliest of those left after the changes, at most as many as were changed or banned are not
            # among the k likeliest before.
            most = (top or 1) + len(self._changed) + len(banned)
            free = self._free(rows.top(row, most), banned)
        if near is not None:
            best = float(rows.logits[row][free].max()) if len(free) else -math.inf
            free = self._free(rows.from_logit(row, best - near - _SLACK), banned)
        if free is None or not self._changed:
            return free
        changed = numpy.fromiter(self._changed, "i4", len(self._changed))
        ids = numpy.concatenate((free, changed[~self._is_banned[changed]] if banned else changed))
        ids.sort()
        return ids

    def ids_among(self, allowed: Any, rows: Rows, row: int, banned: frozenset[int]) -> Any:
        """The same, of the tokens that are `allowed` (one flag for each): what the chain draws from is only these."""
        numpy = self._numpy
        if self._cut == steps.Cut() or numpy.count_nonzero(allowed) <= _FEW:
            ids = numpy.flatnonzero(allowed).astype("i4")
            return ids[numpy.isin(ids, list(banned), invert=True)] if banned else ids
        logits = numpy.where(allowed, rows.logits[row], -math.inf)
        ids = self.ids(Rows(numpy, logits.reshape(1, -1)), 0, banned)
        return ids[allowed[ids]]

    def _free(self, ids: Any, banned: frozenset[int]) -> Any:
        """Those of the tokens that the chain does not change, and that are not banned."""
        if self._changed:
            ids = ids[~self._is_changed[ids]]
        if banned:
            if banned is not self._banned:
                self._banned, self._is_banned = banned, self._numpy.zeros(self._n_vocab, dtype=bool)
                self._is_banned[list(banned)] = True
            ids = ids[~self._is_banned[ids]]
        return ids
