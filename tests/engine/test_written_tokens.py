"""Tokens that come without a draw, or whatever it gives: each backend takes them as it takes drawn ones."""

from __future__ import annotations

import msgspec
from helpers.backends import GREEDY, Subject

from erllama_py.engine.backend import DecodeStatus, Slice
from erllama_py.options.sampling import Sampling

PROMPT = [ord(letter) for letter in "Once upon a time there was a user who"]


def test_accepted_tokens_count_as_drawn(subject: Subject) -> None:
    """The bans of the first tokens, and what looks back, see them as they see drawn ones."""
    backend = subject[2]()
    backend.load(lambda _: True)
    assert backend.decode([Slice(0, 0, PROMPT, True)]) is DecodeStatus.DONE
    best = backend.sampler(GREEDY, PROMPT).sample(0)
    banned = msgspec.structs.replace(GREEDY, min_tokens=3, stop_token_ids=(best,))
    early, late = backend.sampler(banned, PROMPT), backend.sampler(banned, PROMPT)
    assert early.sample(0) != best
    late.accept([40, 41, 42])
    assert late.sample(0) == best
    for sampler in (early, late):
        sampler.close()
    backend.close()


def test_a_prescribed_token_is_what_comes(subject: Subject) -> None:
    """Whatever its odds, which are told; the draw after it is free again."""
    backend = subject[2]()
    backend.load(lambda _: True)
    assert backend.decode([Slice(0, 0, PROMPT, True)]) is DecodeStatus.DONE
    for sampling in (GREEDY, Sampling(temperature=1.0, seed=7, repetition_penalty=1.1)):
        best = backend.sampler(GREEDY, PROMPT).sample(0)
        sampler = backend.sampler(sampling, PROMPT)
        other = 40 if best != 40 else 41
        sampler.prescribe(other)
        assert sampler.sample(0) == other
        told = sampler.likeliest(1)
        assert told.logprob < told.top[0][1]
        assert told.top[0][0] == best
        if sampling is GREEDY:
            assert sampler.sample(0) == best
        sampler.close()
    backend.close()
