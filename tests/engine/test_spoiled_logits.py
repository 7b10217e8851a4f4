"""Logits that are no numbers: what a sequence began with may be to blame, so it is computed again, once."""

from __future__ import annotations

import math
import struct

import pytest
from helpers.engine import generate
from helpers.worker import Bench, alone, bench, prompt

from erllama_py.engine.backend import SpoiledLogits
from erllama_py.engine.failure import failure_of
from erllama_py.engine.jobs import Failed, Finished, Park, PromptLogits, Resume, Spoiled
from erllama_py.errors import SamplerFailed

SPOILED = SpoiledLogits("the model's output is not a number")
FAILURE = failure_of(SamplerFailed(SPOILED.problem))
TOKENS = prompt(1, 40)


def begun_with(tokens: list[int], keep: int) -> Bench:
    """A worker whose sequence 0 holds the first `keep` tokens, as if rows were restored."""
    many = bench()
    many.do(generate(9, tokens[:keep], max_new_tokens=0))
    many.run()
    return many


@pytest.mark.parametrize("drawn", [0, 3])
def test_a_request_that_began_with_something_is_computed_again(drawn: int) -> None:
    """From its first token on, with what it has drawn; it is said once, and the request goes on where it was."""
    many = begun_with(TOKENS, 30)
    before = len(many.decodes)
    many.script(generate(1, TOKENS, keep=30, max_new_tokens=5), [*b"abc"[:drawn], SPOILED, *b"abcde"[drawn:]])
    many.run()
    end = many.ended(1)
    assert isinstance(end, Finished)
    assert bytes(end.token_ids) == b"abcde"
    assert many.of(Spoiled) == [Spoiled(1)]
    assert sum(tokens for decode in many.decodes[before:] for _, tokens in decode) >= len(TOKENS) + 10


def test_it_fails_where_that_does_not_help() -> None:
    """The model itself gives such logits. Callers get the class that they know; another request does not notice."""
    many = begun_with(TOKENS, 30)
    many.do(generate(2, prompt(2), seq_id=1))
    sampler = many.script(generate(1, TOKENS, keep=30), [SPOILED, SPOILED])
    many.run()
    computed = len(TOKENS) - 30 + len(TOKENS)  # and all of it, once more
    assert many.of(Failed) == [Failed(1, FAILURE, computed)]
    assert (sampler.closed, len(many.of(Spoiled))) == (True, 1)
    end = many.ended(2)
    assert isinstance(end, Finished)
    assert end.token_ids == alone(prompt(2)).token_ids


def test_a_request_that_began_with_nothing_fails_at_once() -> None:
    """There is nothing else to blame than the model."""
    many = bench()
    many.script(generate(1, TOKENS), [SPOILED])
    many.run()
    assert (many.of(Failed), many.of(Spoiled)) == ([Failed(1, FAILURE, len(TOKENS))], [])


@pytest.mark.parametrize("logits", [b"short", struct.pack("<f", math.nan) * 300])
def test_kept_logits_that_are_none_are_computed_and_kept_anew(logits: bytes) -> None:
    """Else each repeat of the prompt would find them again."""
    many = begun_with(TOKENS, len(TOKENS))
    size = 4 * many.facts.n_vocab
    many.do(generate(1, TOKENS, keep=len(TOKENS), logits=(logits * 4)[: size if len(logits) > 5 else 5]))
    many.run()
    end = many.ended(1)
    assert isinstance(end, Finished)
    assert end.token_ids == alone(TOKENS).token_ids
    (kept,) = many.of(PromptLogits, 1)
    assert len(kept.logits) == size


def test_a_request_that_is_taken_up_again_is_computed_again_too() -> None:
    """What it was taken up with are rows of the cache, as at a beginning."""
    many = bench()
    many.script(generate(1, TOKENS, max_new_tokens=6), [*b"ab", SPOILED, *b"cdef"])
    many.tick(2)
    many.do(Park(1))
    many.run()
    many.do(generate(9, TOKENS, max_new_tokens=0))
    many.run()
    many.do(Resume(request_id=1, seq_id=0, keep=len(TOKENS), limit=1000))
    many.run()
    end = many.ended(1)
    assert isinstance(end, Finished)
    assert (bytes(end.token_ids), many.of(Spoiled)) == (b"abcdef", [Spoiled(1)])
