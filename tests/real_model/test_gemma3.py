"""Gemma 3 270M, whose layers attend through a sliding window of 512 tokens: reuse must never be silently wrong."""

from __future__ import annotations

from typing import Any

import pytest

import erllama_py as erllama
from erllama_py.serve.models import fetch

pytestmark = [pytest.mark.anyio, pytest.mark.real_model, pytest.mark.slow]

GREEDY: dict[str, Any] = {"temperature": 0.0, "response_tokens": 16}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_kept_of_a_window_answers_as_a_fresh_model_does(anyio_backend: str) -> None:
    """Within the window a cut is exact; beyond it the sequence is begun anew, and the miss says so."""
    async with erllama.Runtime() as runtime:
        config = {"model_path": fetch("gemma3"), "context_opts": {"n_ctx": 1536}}
        model = await runtime.load_model("m", config)
        fresh = await runtime.load_model("fresh", config)
        text = await model.tokenize("The ship left the harbour at dawn and sailed east along the coast. " * 80)
        for length, kept in ((300, True), (900, False)):
            start = text[:length]
            await model.complete([*start, *await model.tokenize(" The captain said", add_bos=False)], **GREEDY)
            prompt = [*start, *await model.tokenize(" The cook said", add_bos=False)]
            again = await model.complete(prompt, **GREEDY)
            await fresh.complete("x", **GREEDY)  # nothing of the prompt is live here
            cold = await fresh.complete(prompt, **GREEDY)
            assert again.generated == cold.generated
            assert (again.cache_hit_kind == "live") is kept, again.stats.miss_reason
        assert "window" in str(again.stats.miss_reason)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_chat_goes_through_its_template(anyio_backend: str) -> None:
    """The template writes the begin token; it is there once."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model({"model_path": fetch("gemma3")})
        tokens = await model.apply_chat_template([{"role": "user", "content": "Hello"}])
        text = await model.detokenize(tokens)
        assert text.count("<bos>") == 1
        assert text.endswith("<start_of_turn>model\n")
