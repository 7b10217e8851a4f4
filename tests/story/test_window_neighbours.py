"""A sliding window beside other sequences: their tokens take the cells that have left it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.cache import ask, cold, model_at, text

pytestmark = pytest.mark.anyio

PROMPT = text(300, seed=5)
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
