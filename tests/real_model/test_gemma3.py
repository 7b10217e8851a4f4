"""Gemma 3 270M, whose layers attend through a sliding window of 512 tokens: reuse must never be silently wrong."""

from __future__ import annotations

from typing import Any

import pytest

import erllama_py as erllama
from erllama_py.serve.models import fetch

pytestmark = [pytest.mark.anyio, pytest.mark.real_model, pytest.mark.slow]

LOG = (
    "The keeper of the lighthouse wrote in his log each evening what he had seen. On the first day a brig passed to "
    "the north, her sails torn and her flag at half mast. On the second day fog lay over the water until noon, and he "
    "rang the bell every ten minutes. "
)
GREEDY: dict[str, Any] = {"temperature": 0.0, "response_tokens": 16}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_kept_of_a_window_answers_as_a_fresh_model_does(anyio_backend: str) -> None:
    """Within the window a cut is exact; beyond it the sequence is begun again. Nothing is saved here."""
    async with erllama.Runtime(policy={"min_tokens": None}) as runtime:
        config: erllama.ModelConfigDict = {
            "model_path": fetch("gemma3"),
            "context_opts": {"n_ctx": 1536, "n_seq_max": 1, "n_ubatch": 64, "n_threads": 2},
        }
        model = await runtime.load_model("m", config)
        fresh = await runtime.load_model("fresh", config)
        text = await model.tokenize(LOG * 30)
        # The cache of this context has 1,280 cells for two windows of 512 tokens and a micro-batch: of a text of
        # 1,450 tokens it has forgotten the first 170, and cannot go back to token 600.
        for length, cut, kept in ((300, 290, True), (1450, 1440, True), (1450, 600, False)):
            await model.complete([*text[:length], *await model.tokenize(" He said", add_bos=False)], **GREEDY)
            # The text goes on as it has gone before, so that each next token is far ahead of the others: how a
            # prompt is cut into batches changes logits by up to 1.4 here, and the lead is above 7.
            again = await model.complete(text[:cut], **GREEDY)
            await fresh.complete("x", **GREEDY)  # nothing of the prompt is live here
            cold = await fresh.complete(text[:cut], **GREEDY)
            assert again.generated == cold.generated
            assert (again.cache_hit_kind == "live") is kept, again.stats.miss_reason
        assert again.cache_hit_kind == "cold"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_begin_token_is_there_once(anyio_backend: str) -> None:
    """Put first where the model wants one, and left out on request."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model({"model_path": fetch("gemma3")})
        tokens = await model.tokenize("Hello")
        assert await model.detokenize(tokens) == "<bos>Hello"
        assert await model.tokenize("Hello", add_bos=False) == tokens[1:]
        with pytest.raises(erllama.ChatTemplateError, match="template"):
            await model.chat([{"role": "user", "content": "Hello"}])
