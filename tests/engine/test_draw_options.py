"""What a request says of its draws, on every backend: biases, bans, and the tokens that end a reply."""

from __future__ import annotations

import math
from typing import Any

import pytest
from helpers.backends import Subject

from erllama_py.engine.backend import Backend, Slice
from erllama_py.engine.banned import banned
from erllama_py.errors import SamplerFailed
from erllama_py.options.sampling import Sampling

PROMPT = [ord(letter) for letter in "Once upon a time there was a user who"]
EVEN: Any = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}  # any token can be drawn


def draws(backend: Backend, sampling: Sampling, count: int = 30) -> list[int]:
    backend.decode([Slice(0, 0, PROMPT, True)])
    sampler = backend.sampler(sampling, PROMPT)
    tokens = [sampler.sample(0) for _ in range(count)]
    sampler.close()
    assert backend.remove(0, 0, -1)
    return tokens


def test_the_ends_are_the_tokens_that_end_a_generation(backend: Backend) -> None:
    """All of them, in order; asked twice they are the same."""
    words = backend.vocabulary
    assert words.ends == words.ends == tuple(token for token in range(words.n_vocab) if words.is_end(token)) != ()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_biased_token_is_drawn_and_a_banned_one_never(backend: Backend, temperature: float) -> None:
    """Whether the likeliest is taken, or one of many is drawn."""
    liked = Sampling(temperature=temperature, seed=1, logit_bias={97: 1000.0, 98: 500.0})
    assert draws(backend, liked, 5) == [97] * 5
    assert draws(backend, Sampling(temperature=temperature, seed=1, logit_bias={97: 1000.0, 98: 900.0, 99: -1e4})) == (
        [97] * 30
    )
    assert draws(backend, Sampling(temperature=temperature, logit_bias={97: -math.inf, 98: 900.0}), 5) == [98] * 5


def test_a_banned_favourite_gives_way_to_the_next(backend: Backend) -> None:
    """Greedy draws look at one token only, until that one is banned."""
    banned_so_far: dict[int | str, float] = {}
    for _ in range(10):
        [token] = draws(backend, Sampling(temperature=0.0, logit_bias=banned_so_far), 1)
        assert token not in banned_so_far
        banned_so_far[token] = -math.inf


@pytest.mark.parametrize("sampling", [
    Sampling(temperature=0.0), Sampling(seed=2), Sampling(seed=2, top_k=0), Sampling(seed=2, **EVEN),
    Sampling(seed=2, mirostat=1), Sampling(seed=2, mirostat=2), Sampling(seed=2, repetition_penalty=1.1),
], ids=["greedy", "default", "top_p", "even", "mirostat", "mirostat2", "penalties"])  # fmt: skip
def test_no_end_is_drawn_before_it_may_be(backend: Backend, sampling: Sampling) -> None:
    """With `min_tokens` the next draw may be one, with `ignore_eos` none ever; by every way to draw."""
    fields = {name: getattr(sampling, name) for name in sampling.__struct_fields__}
    ends = backend.vocabulary.ends
    eager = fields | {"logit_bias": {ends[0]: 1000.0}}
    tokens = draws(backend, Sampling(**eager | {"min_tokens": 7}), 8)
    assert [token in ends for token in tokens] == [False] * 7 + [True]
    assert not set(draws(backend, Sampling(**eager | {"ignore_eos": True}), 60)) & set(ends)


def test_a_request_that_bans_every_token_fails_alone(subject: Subject, backend: Backend) -> None:
    """llama.cpp would end the process."""
    backend.decode([Slice(0, 0, PROMPT, True)])
    everything: dict[int | str, float] = dict.fromkeys(range(backend.vocabulary.n_vocab), -math.inf)
    for temperature in (0.0, 1.0):
        sampler = backend.sampler(Sampling(temperature=temperature, logit_bias=everything), [])
        with pytest.raises(SamplerFailed, match="every token is banned"):
            sampler.sample(0)
    assert backend.sampler(Sampling(), []).sample(0) >= 0


def test_what_is_banned_follows_from_what_is_drawn(backend: Backend) -> None:
    """`min_tokens` counts tokens; what the biases ban stays banned."""
    ends = set(backend.vocabulary.ends)
    at_first = banned(Sampling(min_tokens=2, logit_bias={5: -math.inf, 6: 1.0}), backend.vocabulary)
    assert [at_first.after(drawn) for drawn in (0, 1, 2)] == [ends | {5}, ends | {5}, {5}]
    assert banned(Sampling(ignore_eos=True), backend.vocabulary).after(10**6) == ends
    assert banned(Sampling(), backend.vocabulary).after(0) == set()
