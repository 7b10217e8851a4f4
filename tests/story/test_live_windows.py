"""Sliding windows at rest: llama.cpp lends the cells before them to others, which the scheduler has to know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_gguf import tiny_gguf

import erllama_py as erllama

pytestmark = pytest.mark.anyio

SHORT: dict[str, Any] = {"response_tokens": 4, "temperature": 0.0, "ignore_eos": True}


@pytest.mark.parametrize("least", [1, None])
async def test_what_others_have_taken_is_not_counted_on(least: int | None, tmp_path: Path) -> None:
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
