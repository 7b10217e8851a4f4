"""Warm replies: what is found again after a restart, by whom, and that nobody can tell it from a cold one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.cache import MEMORIES, TIER, ask, cold, config, model_at, ram_model, runtime_at, spans, text

pytestmark = pytest.mark.anyio

PROMPT = text(300)


@pytest.mark.parametrize("kind", ["disk", "ram_file"])
@pytest.mark.parametrize("memory", MEMORIES)
async def test_a_prompt_is_warm_after_a_restart(tmp_path: Path, memory: str, kind: str) -> None:
    """The same reply as a cold runtime gives, from rows: only what no row can spare is computed."""
    async with model_at(tmp_path, memory, kind) as (_, model):
        first = await ask(model, PROMPT)
    async with model_at(tmp_path, memory, kind) as (runtime, model):
        warm = await ask(model, PROMPT)
        counters = await runtime.cache.counters()
    print(memory, warm.cache_hit_kind, warm.stats.prefill_tokens, warm.cache_delta, warm.stats.miss_reason, counters)
    assert warm.reply == first.reply == await cold(PROMPT, memory=memory)
