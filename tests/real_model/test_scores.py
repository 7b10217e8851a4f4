"""Scores and choices with real models: what they know, and the prompt computed once."""

from __future__ import annotations

import math

import pytest

import erllama_py as erllama
from erllama_py.serve.models import fetch

pytestmark = [pytest.mark.anyio, pytest.mark.real_model, pytest.mark.slow]

CONTEXT: erllama.ContextOptsDict = {"n_ctx": 2048, "n_threads": 2, "n_seq_max": 4}
TALE = "The keeper of the lighthouse wrote in his log each evening what he had seen from the gallery. " * 30


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
async def test_it_knows_its_geography(name: str) -> None:
    """The likeliest continuation is the true one, and its first token the one that a greedy reply draws."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {"model_path": fetch(name), "context_opts": CONTEXT})
        choice = await model.choose("The capital of France is", [" London", " Paris", " a piece of cheese"])
        drawn = await model.complete("The capital of France is", temperature=0.0, response_tokens=1, logprobs=0)
    assert choice.option == " Paris"
    assert choice.probability > 0.9
    assert math.fsum(choice.probabilities) == pytest.approx(1.0)
    [first] = drawn.logprobs or []
    assert first.logprob >= max(one.token_logprobs[0] for one in choice.scores.scores) - 0.05


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
async def test_a_long_prompt_is_computed_once(name: str) -> None:
    """Also with a sliding window; the scores, of which two are looked at, are those of a whole text by itself."""
    ends = [" He was tired.", " The sea was calm", " No ship", " Then he slept until noon."]
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {"model_path": fetch(name), "context_opts": CONTEXT})
        scores = await model.score(TALE, ends)
        tokens = await model.tokenize(TALE)
        for one in (scores.scores[0], scores.scores[-1]):
            alone = await model.prefill_only([*tokens, *one.token_ids], prompt_logprobs=0, cache_salt="alone")
            told = [each.logprob for each in (alone.prompt_logprobs or ())[len(tokens) :] if each]
            # How a prompt is cut into decodes, which depends on how long they take, changes logits: of Gemma 3, on such
            # a text, by up to 1.4, and by 2.1 of a token that it holds for almost impossible (-24).
            of_value, of_all = (0.15, 1.5) if name == "gemma3" else (0.0, 0.3)
            assert one.token_logprobs == pytest.approx(told, rel=of_value, abs=of_all)
    own = sum(len(one.token_ids) - 1 for one in scores.scores)
    assert scores.prefill_tokens == len(tokens) + own
