"""How likely the tokens of one prompt are: which of its rows of logits are still to be read. Pure bookkeeping.

The logits after a token say how likely the next one was, so those of all tokens of the prompt are wanted, but for the
last. They are wanted of a bounded number of tokens at a time: with 128,000 tokens in the vocabulary a row takes 512 KB.
"""

from __future__ import annotations

from collections.abc import Sequence

from erllama_py.engine.backend import Backend, Slice
from erllama_py.engine.logprobs import described
from erllama_py.results import TokenLogprob

ROWS_BYTES = 64 << 20  # of the logits of one decode


class PromptScores:
    """The scores of a prompt, with `count` of the likeliest tokens at each place, in the order of its tokens."""

    def __init__(self, prompt: Sequence[int], count: int, n_vocab: int) -> None:
        self.found: list[TokenLogprob | None] = [None]  # nothing comes before the first token
        self._prompt, self._count = prompt, count
        # A power of two, so that slices end on the grid of micro-batches as those of other prompts do.
        self._most = 1 << (max(1, ROWS_BYTES // (4 * n_vocab)).bit_length() - 1)

    def wants(self, start: int, end: int) -> bool:
        """Whether the logits of positions `[start, end)` are to be read."""
        return len(self.found) <= min(end, len(self._prompt) - 1)

    def most(self, position: int) -> int:
        """How many tokens from `position` on may go into one decode whose logits are read."""
        return self._most - position % self._most

    def read(self, backend: Backend, index: int, fed: Slice) -> None:
        """Take in slice `index` of the last decode, `fed`. Raises `SamplerFailed`."""
        first, end = len(self.found), fed.start + len(fed.tokens)
        tokens = self._prompt[first : end + 1]
        scores = backend.likeliest(index, first - 1 - fed.start, tokens, self._count)
        words = backend.vocabulary
        self.found += [described(token, score, None, words) for token, score in zip(tokens, scores, strict=True)]
