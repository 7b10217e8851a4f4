"""A sliding window beside other sequences: their tokens take the cells that have left it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.cache import ask, cold, model_at, text
from helpers.tiny_gguf import tiny_gguf

import erllama_py as erllama

pytestmark = pytest.mark.anyio

PROMPT = text(300, seed=5)
SHORT: dict[str, Any] = {"response_tokens": 4, "temperature": 0.0, "ignore_eos": True}
SEVERAL: dict[str, Any] = {"context_opts": {"n_seq_max": 2}, "scheduler": {"kept_tokens": 4096}}


async def test_a_prompt_that_comes_again_after_others_is_read_from_its_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The reply that follows it in the live sequence is to be cut off, and the window before that may be gone."""
    async with model_at(tmp_path, "window", **SEVERAL) as (runtime, model):
        await ask(model, PROMPT, 1)
        await runtime.cache.flush()
        await ask(model, text(200, seed=6))
        again = await ask(model, PROMPT[:-10] + "and so on")
        assert again.cache_delta.read >= 256
        assert again.stats.prefill_tokens <= 50
        assert again.reply == await cold(PROMPT[:-10] + "and so on", memory="window")
    assert "does not hold what it should" not in caplog.text


async def test_what_goes_on_where_a_sequence_stands_keeps_it(tmp_path: Path) -> None:
    """The window of its next token is never taken."""
    async with model_at(tmp_path, "window", **SEVERAL) as (_, model):
        first = await ask(model, PROMPT, 4)
        await ask(model, text(200, seed=6))
        again = await ask(model, PROMPT + first.reply + "and so on")
        assert again.cache_hit_kind == "live"
        assert again.stats.prefill_tokens <= 10


@pytest.mark.parametrize("least", [1, None])
async def test_what_others_have_taken_of_a_real_context_is_not_counted_on(least: int | None, tmp_path: Path) -> None:
    """A conversation is cut back when another has taken cells before its window: rows are restored, where there are
    some, and what is told of it is what was done."""
    config: Any = {
        "model_path": str(tiny_gguf("window", tmp_path)), "policy": {"min_tokens": least},
        "context_opts": {"n_ctx": 4096, "n_seq_max": 2, "n_batch": 256, "n_ubatch": 64},
    }  # fmt: skip
    first, other = [20 + at % 90 for at in range(630)], [30 + at % 70 for at in range(500)]
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", config)
        await model.complete(first, **SHORT)
        await model.complete(other, **SHORT)
        done = await model.complete([*first[:620], *other[:8]], **SHORT)
    assert done.cache_delta.read + done.stats.prefill_tokens == done.prompt_tokens
    assert done.cache_delta.read >= (512 if least else 0)
