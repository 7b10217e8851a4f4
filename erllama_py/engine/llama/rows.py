"""The rows of logits of the last decode, and what can be known of them without a list of all candidates.

A row is looked at in groups of `WIDTH` tokens that lie far apart, so that the best of each group comes from whole
vectors. The k-th best of these is at most the k-th best token: few tokens reach it, and among them are the k best.

Timed at 128,256 tokens on one core: 8 µs for the best of the groups and 13 for `top(40)`; a list of all candidates
takes 300. One row after the other: of 32 rows at once the first are out of the CPU's cache when they are cut, which
then takes 150 µs each.
"""

from __future__ import annotations

from typing import Any

from erllama_py.engine.backend import Likeliest
from erllama_py.engine.logprobs import of_row

WIDTH = 64


class Rows:
    """`logits` is an array of 32-bit floats, rows by tokens; it is read, and not changed."""

    def __init__(self, numpy: Any, logits: Any) -> None:
        self._numpy = numpy
        self.logits = logits
        self._groups = logits.shape[1] // WIDTH
        self._maxima: dict[int, Any] = {}

    def best(self, row: int) -> int:
        """The likeliest token, the lowest of equals; -1 where a logit of the row is no number."""
        logits = self.logits[row]
        token = int(logits.argmax())  # the first that is no number, where there is one
        return -1 if self._numpy.isnan(logits[token]) else token

    def is_valid(self, row: int) -> bool:
        """Whether all logits of the row are numbers."""
        return not self._numpy.isnan(self._best_of_groups(row)).any()

    def top(self, row: int, count: int) -> Any:
        """Ids of tokens, ascending, among which are the `count` likeliest: few more, unless many are equal."""
        numpy, maxima = self._numpy, self._best_of_groups(row)
        if count >= len(maxima):
            return numpy.arange(self.logits.shape[1], dtype="i4")
        least = len(maxima) - count
        return self.from_logit(row, numpy.partition(maxima, least)[least])

    def likeliest(self, row: int, token: int, count: int) -> Likeliest:
        """How likely a token is, and the `count` likeliest."""
        return of_row(self.logits[row], token, self.top(row, max(1, count)), count)

    def from_logit(self, row: int, least: float) -> Any:
        """Ids of the tokens, ascending, whose logit is at least `least`."""
        numpy, logits, groups = self._numpy, self.logits[row], self._groups
        maxima = self._best_of_groups(row)
        main = groups * WIDTH
        among = numpy.flatnonzero(maxima[:groups] >= least)
        rank, group = numpy.nonzero(logits[:main].reshape(WIDTH, groups)[:, among] >= least)
        ids = rank * groups + among[group]
        if main < len(logits):
            ids = numpy.concatenate((ids, main + numpy.flatnonzero(logits[main:] >= least)))
        return ids.astype("i4")

    def nucleus(self, row: int, mass: float) -> Any:
        """Ids of the likeliest tokens that together reach this probability, the likeliest first; none of a row in which
        every token is ruled out.

        As llama.cpp's `top_p`, but for what adding up 32-bit numbers in another order makes of the last token.
        """
        numpy, logits, count = self._numpy, self.logits[row], WIDTH
        best = self._best_of_groups(row).max()
        if not numpy.isfinite(best):
            return numpy.flatnonzero(logits == numpy.inf)[:1]
        shares = logits - best
        numpy.exp(shares, out=shares)
        wanted = numpy.float32(mass) * shares.sum()
        while True:
            ids = self.top(row, count)
            ids = ids[numpy.argsort(-logits[ids], kind="stable")]
            reached = shares[ids].cumsum()
            if reached[-1] >= wanted or len(ids) == len(logits):
                return ids[: reached.searchsorted(wanted) + 1]
            count *= 8

    def _best_of_groups(self, row: int) -> Any:
        """The best logit of each group; tokens that fill no group stand for themselves."""
        best = self._maxima.get(row)
        if best is None:
            logits, main = self.logits[row], self._groups * WIDTH
            best = logits[:main].reshape(WIDTH, self._groups).max(axis=0)
            if main < len(logits):
                best = self._numpy.concatenate((best, logits[main:]))
            self._maxima[row] = best
        return best
