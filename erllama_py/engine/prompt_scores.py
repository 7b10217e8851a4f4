"""How likely the tokens of one prompt are: which of its rows of logits are still to be read. Pure bookkeeping.

The logits after a token say how likely the next one was, so those of all tokens of the prompt are wanted, but for the
last. They are wanted of a bounded number of tokens at a time: with 128,000 tokens in the vocabulary a row takes 512 KB.

A score may be of the prompt's end alone (`scored_from`): what comes before is computed like any other prompt, or not at
all. Tokens that could follow the prompt (`next_tokens`) are scored by its last row, without being part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from erllama_py.engine.backend import Backend, Slice, Vocabulary
from erllama_py.engine.jobs import Report
from erllama_py.engine.logprobs import described, of_logits
from erllama_py.results import TokenLogprob

ROWS_BYTES = 64 << 20  # of the logits of one decode
T = TypeVar("T")


def most_rows(n_vocab: int) -> int:
    """How many rows of logits a decode may have read of it: a power of two, so that slices end on the grid of
    micro-batches as those of other prompts do."""
    return 1 << (max(1, ROWS_BYTES // (4 * n_vocab)).bit_length() - 1)


def as_many_as_fit(scoring: Iterable[tuple[T, int, int]], most: int) -> list[T]:
    """Those whose rows are read in one decode, of `(one, rows, waited)`: who has waited longest first, `most` rows
    together, and one in any case."""
    chosen: list[T] = []
    for one, rows, _ in sorted(scoring, key=lambda entry: -entry[2]):
        most -= rows
        if chosen and most < 0:
            break
        chosen.append(one)
    return chosen


class PromptScores:
    """The scores of a prompt, with the number of likeliest tokens that `report` asks for at each place, in the order of
    its tokens; those of `next_tokens` after them."""

    def __init__(self, prompt: Sequence[int], report: Report, n_vocab: int) -> None:
        start = report.scored_from
        self.found: list[TokenLogprob | None] = [] if start else [None]  # nothing comes before the first token
        self._prompt, self._count, self._ends = prompt, report.prompt_logprobs or 0, report.next_tokens
        self._next = max(1, start)  # the token whose score is next
        self._most = most_rows(n_vocab)

    def wants(self, start: int, end: int) -> bool:
        """Whether the logits of positions `[start, end)` are to be read."""
        return self._next <= min(end, len(self._prompt) - 1)

    def reach(self, position: int, tokens: int) -> int:
        """How many of `tokens` from `position` on may go into one decode: up to the first row that is read, or as many
        as may be read at a time."""
        if not self.wants(position, position + tokens):
            return tokens
        ahead = self._next - 1 - position
        return min(tokens, ahead if ahead > 0 else self._most - position % self._most)

    def read(self, backend: Backend, index: int, fed: Slice) -> None:
        """Take in slice `index` of the last decode, `fed`. Raises `SamplerFailed`."""
        first, end = self._next, fed.start + len(fed.tokens)
        tokens = self._prompt[first : end + 1]
        scores = backend.likeliest(index, first - 1 - fed.start, tokens, self._count)
        words = backend.vocabulary
        self.found += [described(token, score, None, words) for token, score in zip(tokens, scores, strict=True)]
        self._next += len(tokens)

    @property
    def wants_end(self) -> bool:
        """Whether tokens that could follow are to be scored, by the logits at the prompt's end."""
        return bool(self._ends)

    def read_end(self, logits: bytes, vocabulary: Vocabulary) -> None:
        """Take in the logits at the prompt's end. Raises `SamplerFailed`."""
        scores = of_logits(logits, self._ends)
        self.found += [
            described(token, score, None, vocabulary) for token, score in zip(self._ends, scores, strict=True)
        ]
        self._ends = ()
