"""Tokens that come without a draw: each backend takes them as it takes drawn ones."""

from __future__ import annotations

import msgspec
from helpers.backends import GREEDY, Subject

from erllama_py.engine.backend import DecodeStatus, Slice

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
