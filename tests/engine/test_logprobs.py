"""How likely tokens are, on every backend: held against a log-softmax of the backend's logits in 64 bits."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
from helpers.backends import GREEDY, ON_LLAMA
from helpers.structures import regex
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from erllama_py.engine.backend import Backend, Likeliest, Slice
from erllama_py.engine.logprobs import of_row, of_some
from erllama_py.options.sampling import Sampling

PROMPT = [ord(letter) for letter in "Once upon a time there was a user who"]
EVEN: Any = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}  # any token can be drawn
CLOSE = 1e-5  # of a logit: 32 bits against 64

ROWS = arrays.arrays("f4", st.integers(1, 40), elements=st.floats(-30.0, 30.0, width=32) | st.just(-math.inf))


def log_softmax(logits: Any) -> Any:
    """In 64 bits, by its definition."""
    wide = numpy.asarray(logits, "f8")
    return wide - numpy.log(numpy.exp(wide - wide.max()).sum()) - wide.max()


def best_of(logprobs: Any, count: int) -> list[int]:
    """The likeliest tokens that can be drawn at all; of equals the lowest."""
    order = sorted(range(len(logprobs)), key=lambda token: (-logprobs[token], token))
    return [token for token in order if logprobs[token] > -math.inf][:count]


def decoded(backend: Backend) -> Any:
    """The logits after the prompt."""
    backend.decode([Slice(0, 0, PROMPT, True)])
    return numpy.frombuffer(backend.logits(0), "f4")


def same(found: Likeliest, logprobs: Any, token: int, ids: list[int]) -> bool:
    """Whether that is what was found of a draw."""
    values = [value for _, value in found.top]
    listed = [one for one, _ in found.top] == ids and numpy.allclose(values, logprobs[ids], atol=CLOSE)
    return listed and math.isclose(found.logprob, logprobs[token], abs_tol=CLOSE)


@given(ROWS, st.data())
def test_a_row_gives_the_likeliest_tokens_and_their_logarithms(row: Any, data: st.DataObject) -> None:
    """From a row of all tokens, and from a list of some of them."""
    row[data.draw(st.integers(0, len(row) - 1))] = 1.0  # a token that can be drawn
    token, count = data.draw(st.sampled_from(best_of(row, len(row)))), data.draw(st.integers(0, 8))
    expected = log_softmax(row)
    ids = numpy.arange(len(row), dtype="i4")
    assert same(of_row(row, token, ids, count), expected, token, best_of(row, count))
    mixed = numpy.array(data.draw(st.permutations(list(range(len(row))))), dtype="i4")
    some = of_some(mixed, row[mixed], token, count)
    listed = [
        one for one, _ in some.top
    ]  # logits that differ by less than 32 bits hold beside the best are equals here
    assert len(set(listed)) == len(listed) == len(best_of(row, count))
    assert numpy.allclose(expected[listed], expected[best_of(row, count)], atol=CLOSE)
    assert same(some, expected, token, listed)


@pytest.mark.parametrize("sampling", [
    GREEDY, Sampling(seed=3), Sampling(seed=3, **EVEN), Sampling(seed=4, repetition_penalty=1.5),
    Sampling(seed=5, logit_bias={97: 5.0}), Sampling(temperature=0.0, logit_bias={97: 1000.0}),
], ids=["greedy", "default", "even", "penalty", "bias", "greedy bias"])  # fmt: skip
def test_before_the_chain_it_is_the_model_that_counts(backend: Backend, sampling: Sampling) -> None:
    """Whatever the chain makes of it: the log-softmax of the logits."""
    expected = log_softmax(decoded(backend))
    sampler = backend.sampler(sampling, PROMPT)
    for count in (0, 1, 5, 20):
        token = sampler.sample(0)
        assert same(sampler.likeliest(count), expected, token, best_of(expected, count))
    sampler.close()


def test_what_was_drawn_from_kept_logits_is_told_as_well(backend: Backend) -> None:
    """They are the same logits, after the sequence has moved on."""
    logits = decoded(backend)
    expected, kept = log_softmax(logits), logits.tobytes()
    backend.decode([Slice(0, len(PROMPT), [65], True)])
    sampler = backend.sampler(GREEDY, PROMPT)
    token = sampler.sample_from(kept)
    assert same(sampler.likeliest(5), expected, token, best_of(expected, 5))
    sampler.close()


@pytest.mark.parametrize("sampling", [
    GREEDY, Sampling(temperature=0.0, logit_bias={97: 1000.0}), Sampling(top_k=1, temperature=1.5),
    Sampling(top_k=1, logit_bias={97: 1000.0}),
])  # fmt: skip
def test_a_draw_of_the_likeliest_leaves_one_token(backend: Backend, sampling: Sampling) -> None:
    """Its logarithm is 0.0, and no other could be drawn, whatever another request has drawn before."""
    decoded(backend)
    other = backend.sampler(Sampling(seed=1, logit_bias={98: 2000.0}), [])
    assert other.sample(0) == 98
    other.close()
    sampler = backend.sampler(sampling, [])
    token = sampler.sample(0)
    assert sampler.likeliest(5, after=True) == Likeliest(0.0, [(token, 0.0)])
    assert sampler.likeliest(0, after=True) == Likeliest(0.0, [])
    sampler.close()


@pytest.mark.parametrize("sampling", [
    Sampling(seed=1), Sampling(seed=1, **EVEN), Sampling(seed=1, logit_bias={97: 1000.0, 98: 1000.0}),
    Sampling(seed=1, min_tokens=9, logit_bias={256: 1000.0, 97: 999.0}),
], ids=["default", "even", "bias", "bans"])  # fmt: skip
def test_after_the_chain_the_odds_are_those_of_the_draw(backend: Backend, sampling: Sampling) -> None:
    """All that is left makes up one; what was drawn is among it, and what is banned is not."""
    decoded(backend)
    sampler = backend.sampler(sampling, PROMPT)
    for _ in range(5):
        token = sampler.sample(0)
        logprob, top = sampler.likeliest(backend.vocabulary.n_vocab, after=True)
        assert math.isclose(sum(math.exp(value) for _, value in top), 1.0, rel_tol=1e-4)
        assert dict(top)[token] == logprob
        if sampling.min_tokens:
            assert not {one for one, _ in top} & {*backend.vocabulary.ends}
        assert sampler.likeliest(3, after=True) == (logprob, top[:3])
    sampler.close()


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_logits_beyond_32_bits_still_have_odds(odd: float) -> None:
    """What a chain with options at their bounds has left is told in numbers."""
    ids, logits = numpy.array([3, 5, 8, 9], "i4"), numpy.array([odd, 1.0, -numpy.inf, odd], "f4")
    logprob, top = of_some(ids, logits, 3, 4)
    assert math.isclose(logprob, math.log(0.5))
    assert [token for token, _ in top] == [3, 9, 5]
    assert all(math.isfinite(value) for _, value in top)


@ON_LLAMA
def test_llama_cpp_draws_by_the_odds_that_are_told(backend: Backend) -> None:
    """Temperature over the k best, by hand in 64 bits. The stub has no chain to hold it against."""
    logits = decoded(backend)
    sampler = backend.sampler(Sampling(seed=1, temperature=0.7, top_k=5, top_p=1.0, min_p=0.0), PROMPT)
    token = sampler.sample(0)
    ids = best_of(logits, 5)
    expected = numpy.full(len(logits), -math.inf)
    expected[ids] = log_softmax(logits[ids] / 0.7)
    assert same(sampler.likeliest(9, after=True), expected, token, ids)
    sampler.close()


def test_under_a_structure_what_is_left_is_what_it_allows(backend: Backend) -> None:
    """While the model's own odds know nothing of it."""
    before = log_softmax(decoded(backend))
    sampler = backend.sampler(Sampling(seed=1, grammar=regex("[a-c]{3}"), **EVEN), PROMPT)
    token = sampler.sample(0)
    assert same(sampler.likeliest(5), before, token, best_of(before, 5))
    logprob, top = sampler.likeliest(backend.vocabulary.n_vocab, after=True)
    texts = [backend.vocabulary.token_bytes(one, special=False).decode() for one, _ in top]
    assert all(text and set(text) <= set("abc") for text in texts)
    assert dict(top)[token] == logprob
    assert math.isclose(sum(math.exp(value) for _, value in top), 1.0, rel_tol=1e-4)
    sampler.close()
