"""What `score` and `choose` give back: how likely continuations of a prompt are. Logarithms are natural."""

from __future__ import annotations

from erllama_py.results.completion import CacheDelta
from erllama_py.results.plain import Result


class Score(Result, frozen=True, kw_only=True):
    """How likely one continuation is after the prompt, by the softmax of the model's logits."""

    logprob: float
    """Logarithm of its probability: the sum of `token_logprobs`."""
    token_ids: list[int]
    """Its tokens; a continuation of more tokens is less likely by that alone."""
    token_logprobs: list[float]
    """Of each token, after the prompt and the tokens before it."""


class Scores(Result, frozen=True, kw_only=True):
    """The scores of all continuations of one prompt. Counts are in tokens."""

    scores: tuple[Score, ...]
    """One for each continuation, in the order in which they were given."""
    prompt_tokens: int
    """Tokens of the prompt, the begin token counted."""
    prefill_tokens: int
    """Tokens that had to be computed, for the prompt and for all continuations: of a continuation one less than it has,
    where the prompt's cells could be shared."""
    cache_delta: CacheDelta
    """What of the prompt was read from the cache and given to it."""


class Choice(Result, frozen=True, kw_only=True):
    """Which of several options is the likeliest after the prompt."""

    option: str
    """The likeliest option; of equals the first."""
    index: int
    """Its place among the options."""
    probability: float
    """Its probability among the options: 0.0 to 1.0."""
    probabilities: tuple[float, ...]
    """Those of all options, in their order; together 1.0."""
    scores: Scores
    """How likely each of them was by itself."""
