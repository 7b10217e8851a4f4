"""The cache is never a loss: where copying cells takes longer than computing them, it is left alone, and says why."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.cache import MEMORIES, ask, cold, model_at, text

import erllama_py as erllama

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.measured_copies]

PROMPT = text(1000, seed=3)
# 64 tokens are computed in 6 ms; a copy takes 60, of any length.
COMPUTING = {"seconds_per_token": 0.0001}
SLOW = {**COMPUTING, "seconds_per_copy": 0.06}


def rows(model: erllama.Model) -> int:
    return model.counters.saved_rows


@pytest.mark.parametrize("memory", MEMORIES)
async def test_where_copies_take_longer_than_computing_nothing_is_saved_and_the_reason_is_told(
    memory: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From the first prompt on, but for the copies that have shown it; replies are as they would be."""
    async with model_at(tmp_path, memory, stub=SLOW) as (runtime, model):
        first = await ask(model, PROMPT)
        second = await ask(model, text(1000, seed=4))
        copies = rows(model)
        assert copies <= 12  # of 15 rows a prompt, and those of its reply
        slow = "saved: copying 1000 tokens out takes"
        assert slow in (second.stats.miss_reason or "")
        assert slow in ((await model.explain(text(1000, seed=5))).miss_reason or "")
        assert (model.info.save_limits or "").startswith("nothing is saved: copying 256 tokens out takes")
        assert (await runtime.cache.counters())["saves.dropped.slow"] > 10
        assert model.counters.skipped_rows > 10
        await runtime.evict(model)
        assert rows(model) == copies
        assert first.reply == await cold(PROMPT, memory=memory)
    assert caplog.text.count("saving would take longer than it is worth") == 1


async def test_rows_that_are_there_are_not_put_back_where_computing_is_faster(tmp_path: Path) -> None:
    """The first that is put back shows it: the others are computed, and later prompts are from the start."""
    async with model_at(tmp_path, stub=COMPUTING) as (runtime, model):
        await ask(model, PROMPT)
        assert rows(model) >= 15
        assert model.info.save_limits is None
    async with model_at(tmp_path, stub={**COMPUTING, "seconds_per_copy": 0.3}) as (runtime, model):
        warm = await ask(model, PROMPT + "!")
        assert warm.cache_delta.read == 64
        assert warm.cache_hit_kind == "partial"
        assert warm.stats.miss_reason == "what is saved takes longer to read than to compute"
        await runtime.evict(model)
        other = await ask(model, PROMPT + "?")
        assert other.cache_hit_kind == "cold"
        assert other.stats.miss_reason == "what is saved takes longer to read than to compute"
        assert warm.reply == await cold(PROMPT + "!")


async def test_fast_copies_save_and_restore_everything(tmp_path: Path) -> None:
    """A copy that takes a tenth of what its tokens do is worth it."""
    stub = {"seconds_per_token": 0.0005, "seconds_per_copy": 0.002}
    async with model_at(tmp_path, stub=stub) as (runtime, model):
        await ask(model, PROMPT)
        await runtime.evict(model)
        warm = await ask(model, PROMPT + "!")
        assert warm.cache_delta.read >= 990
        assert model.info.save_limits is None
        assert "saves.dropped.slow" not in await runtime.cache.counters()
