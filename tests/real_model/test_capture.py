"""Ranges of 256 tokens of real models, captured during prefill and put back: equal to the last bit."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from erllama_py.engine import make_backend
from erllama_py.engine.backend import Backend, DecodeStatus, Slice
from erllama_py.options.model import ModelConfig
from erllama_py.options.sampling import Sampling
from erllama_py.serve.models import fetch

pytestmark = [pytest.mark.real_model, pytest.mark.slow]

SPAN, SPANS = 256, 4  # four of them are twice as wide as Gemma 3's window
STEP = 8  # tokens decoded after a boundary to compare what comes of them
TEXT = "The keeper of the lighthouse wrote in his log each evening what he had seen from the gallery. "


def loaded(name: str, **context: Any) -> Backend:
    config = {"backend": "llama", "model_path": str(fetch(name)), "context_opts": {"n_seq_max": 2, **context}}
    backend = make_backend(name, msgspec.convert(config, ModelConfig))
    backend.load(lambda _done: True)
    return backend


def step(backend: Backend, seq_id: int, tokens: list[int], start: int, end: int) -> bytes:
    assert backend.decode([Slice(seq_id, start, tokens[start:end], True)]) is DecodeStatus.DONE
    return backend.logits(0)


def reply(backend: Backend, seq_id: int, position: int) -> list[int]:
    """12 tokens after a decode that had logits."""
    sampler, said = backend.sampler(Sampling(temperature=0.0), []), list[int]()
    for place in range(position, position + 12):
        said.append(sampler.sample(0))
        backend.decode([Slice(seq_id, place, (said[-1],), True)])
    sampler.close()
    return said


@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_a_chain_of_ranges_goes_on_like_the_live_sequence(name: str, flash_attn: bool) -> None:
    """At each multiple of 256, in another sequence and in another and wider context; and then for 12 tokens."""
    live = loaded(name, n_ctx=2048, flash_attn=flash_attn)
    words = live.vocabulary.tokenize(TEXT * 80, add_special=True, parse_special=False)
    rows: list[memoryview] = []
    expected: list[bytes] = []
    for start in range(0, SPAN * SPANS, SPAN):
        step(live, 0, words, start + STEP if start else 0, start + SPAN)
        payload = live.capture(0, start, start + SPAN, lambda size: memoryview(bytearray(size)))
        assert payload is not None
        rows.append(payload)
        expected.append(step(live, 0, words, start + SPAN, start + SPAN + STEP))
    said = reply(live, 0, SPAN * SPANS + STEP)
    assert live.remove(0, 0, -1)

    wide = loaded(name, n_ctx=4096, flash_attn=flash_attn)
    for target in (live, wide):
        for depth in range(1, SPANS + 1):
            for index, payload in enumerate(rows[:depth]):
                assert target.restore(1, SPAN * index, SPAN * (index + 1), payload)
            assert step(target, 1, words, SPAN * depth, SPAN * depth + STEP) == expected[depth - 1]
            if depth == SPANS:
                assert reply(target, 1, SPAN * depth + STEP) == said
            assert target.remove(1, 0, -1)
        target.close()
