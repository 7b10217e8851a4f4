"""Tokens that a request must not draw: those that its biases ban, and those that would end its reply early. Pure."""

from __future__ import annotations

import math
from typing import NamedTuple

from erllama_py.engine.backend import Vocabulary
from erllama_py.options.sampling import Sampling


class Banned(NamedTuple):
    """`always` is banned for the whole reply, `at_first` until `least` tokens of it are drawn."""

    always: frozenset[int]
    at_first: frozenset[int]
    least: int

    def after(self, drawn: int) -> frozenset[int]:
        """What is banned when so many tokens are drawn."""
        return self.at_first if drawn < self.least else self.always


def banned(sampling: Sampling, vocabulary: Vocabulary) -> Banned:
    """What `logit_bias`, `ignore_eos` and `min_tokens` ban; tokens are given by id."""
    always = frozenset(int(token) for token, bias in sampling.logit_bias.items() if bias == -math.inf)
    if sampling.ignore_eos:
        always = always.union(vocabulary.ends)
    at_first = always.union(vocabulary.ends, sampling.stop_token_ids) if sampling.min_tokens else always
    return Banned(always, at_first, sampling.min_tokens)
