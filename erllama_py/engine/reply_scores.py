"""How likely the tokens of one reply are: which of its rows of logits are still to be read. Pure bookkeeping.

A token that is drawn is told of with its draw. One that a structure forces, or that is written to close a block of
thinking, comes without a row: what tells of it are the logits after the token before it, and those are read of the
decode that both go into. So a reply whose tokens are told of is drawn as any other, and is decoded in the same slices.
"""

from __future__ import annotations

from collections.abc import Sequence

from erllama_py.engine.backend import Backend, Likeliest, Sampler, Slice, Vocabulary
from erllama_py.engine.jobs import Report
from erllama_py.engine.logprobs import described, of_logits
from erllama_py.results import TokenLogprob


class ReplyScores:
    """The scores of a reply to a prompt of `start` tokens, in the order of its tokens: `found`, and how many of its
    last tokens `waiting` has none yet. `report` says what is told of each."""

    def __init__(self, start: int, report: Report) -> None:
        self.found: list[TokenLogprob] = []
        self._start, self._count, self._after = start, report.logprobs or 0, report.logprobs_after
        self._waiting: list[int] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def row(self) -> int:
        """The position whose logits tell of the next token."""
        return self._start + len(self.found) - 1

    def drew(self, token: int, sampler: Sampler, vocabulary: Vocabulary) -> None:
        """This token comes next: it was drawn just now."""
        after = sampler.likeliest(self._count, after=True) if self._after else None
        self.found.append(described(token, sampler.likeliest(self._count), after, vocabulary))

    def came(self, token: int) -> None:
        """This token comes next: nobody has drawn it."""
        self._waiting.append(token)

    def wants(self, start: int, end: int) -> bool:
        """Whether the logits of positions `[start, end)` are to be read."""
        return bool(self._waiting) and start <= self.row < end

    def reach(self, position: int, tokens: int) -> int:
        """How many of `tokens` from `position` on may go into one decode: up to the first row that is read. Those from
        there on are few: no more come without a draw in one go than `MOST_FORCED` or `MOST_WRITTEN`."""
        ahead = self.row - position
        return min(tokens, ahead) if self._waiting and ahead > 0 else tokens

    def read(self, backend: Backend, index: int, fed: Slice) -> None:
        """Take in slice `index` of the last decode, `fed`. Raises `SpoiledLogits`."""
        first = self.row
        tokens = self._waiting[: fed.start + len(fed.tokens) - first]
        self._take(tokens, backend.likeliest(index, first - fed.start, tokens, self._count), backend.vocabulary)

    def read_end(self, logits: bytes, vocabulary: Vocabulary) -> None:
        """Take in the logits that the next token might have been drawn from. Raises `SpoiledLogits`."""
        tokens = self._waiting[:1]
        self._take(tokens, of_logits(logits, tokens, self._count), vocabulary)

    def _take(self, tokens: Sequence[int], scores: Sequence[Likeliest], vocabulary: Vocabulary) -> None:
        for token, score in zip(tokens, scores, strict=True):
            certain = Likeliest(0.0, [(token, 0.0)][: self._count]) if self._after else None
            self.found.append(described(token, score, certain, vocabulary))
        del self._waiting[: len(tokens)]

    def forget_waiting(self) -> None:
        """The reply ends before the tokens that have none yet."""
        self._waiting.clear()
