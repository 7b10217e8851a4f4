"""What is saved, when, and who waits for it: gates, `parent_key`, cancelled requests, unloading, back-pressure."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from helpers.cache import PROMPT, TIER, Gate, ask, cold, model_at, ram_model, row_files, spans, text, until_true
from helpers.runtime import GatedBackend, until

import erllama_py as erllama
from erllama_py.config import ModelConfig
from erllama_py.engine.backend import Backend, DecodeStatus, Slice
from erllama_py.engine.stub import StubBackend
from erllama_py.errors import TierFailed

pytestmark = pytest.mark.anyio

# Nothing but the row at a request's end is saved: the story of one save.
FINISH_ONLY = {"boundary_align_tokens": 4096, "continued_interval": 4096, "session_resume_wait_ms": 60_000}


async def first_turn(model: erllama.Model) -> tuple[erllama.Completion, list[int]]:
    """A turn whose save is under way, and the prompt of the next one."""
    first = await ask(model, PROMPT)
    await ask(model, text(40, seed=1))  # other cells: the next turn needs rows
    return first, [*PROMPT.encode(), *first.generated, *b" and then?"]


async def waiting(runtime: erllama.Runtime) -> Any:
    """The look-ups that the cache lets wait."""
    ref = runtime._names.whereis("cache")
    assert ref is not None
    return ref


# --- parent_key ----------------------------------------------------------------------------------------------


async def test_a_save_that_the_parent_key_names_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next turn comes before its rows are stored: it starts once they are, and counts as resumed."""
    async with ram_model(policy=FINISH_ONLY) as (runtime, model):
        gate = Gate(monkeypatch)
        first, turn = await first_turn(model)
        async with asyncio.TaskGroup() as group:
            second = group.create_task(ask(model, turn, parent_key=first.finish_key))
            await gate.reached.wait()
            await until(lambda: model.phase == "prefilling")
            gate.open()
        warm = second.result()
        counters = await runtime.cache.counters()
    assert warm.cache_delta.read == first.committed_tokens
    assert warm.stats.tier == "ram"
    assert counters["hits.resume"] == 1
    assert warm.reply == await cold(turn)


async def test_a_parent_key_that_does_not_fit_falls_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of another conversation, even one whose save is under way, or of none: the longest prefix counts."""
    async with ram_model() as (runtime, model):
        await ask(model, PROMPT)
        await runtime.cache.flush()
        gate = Gate(monkeypatch)
        other = await ask(model, text(100, seed=2))
        for key in (other.finish_key, bytes(32), "ab" * 32):
            warm = await ask(model, PROMPT + "!", parent_key=key)
            assert warm.cache_delta.read == len(PROMPT)
            await ask(model, text(40, seed=1))
        gate.open()
    assert warm.reply == await cold(PROMPT + "!")


async def test_the_wait_for_a_parent_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `session_resume_wait_ms` the request goes on with what is there, and says what it missed."""
    async with ram_model(policy={**FINISH_ONLY, "session_resume_wait_ms": 20}) as (_, model):
        gate = Gate(monkeypatch)
        first, turn = await first_turn(model)
        second = await ask(model, turn, parent_key=first.finish_key)
        gate.open()
    assert second.cache_hit_kind == "cold"
    assert second.stats.lookup_seconds >= 0.02
    assert second.stats.miss_reason == "what follows token 0 is still being saved"
    assert second.reply == await cold(turn)


async def test_the_wait_for_a_parent_ends_when_its_save_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a row that will not come."""
    async with ram_model(policy=FINISH_ONLY) as (runtime, model):
        gate = Gate(monkeypatch)
        first, turn = await first_turn(model)
        async with asyncio.TaskGroup() as group:
            second = group.create_task(ask(model, turn, parent_key=first.finish_key))
            await gate.reached.wait()
            await until(lambda: model.phase == "prefilling")
            gate.error = TierFailed("ram", "not today")
            gate.open()
        counters = await runtime.cache.counters()
    assert second.result().cache_hit_kind == "cold"
    assert counters["saves.dropped.TierFailed"] >= 1
    assert second.result().reply == await cold(turn)


async def test_a_caller_that_waits_for_a_parent_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is free for the next request at once, and nothing stays pinned."""
    async with ram_model(policy=FINISH_ONLY) as (runtime, model):
        gate = Gate(monkeypatch)
        first, turn = await first_turn(model)
        second = asyncio.create_task(ask(model, turn, parent_key=first.finish_key))
        await gate.reached.wait()
        await until(lambda: model.phase == "prefilling")
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert (await ask(model, text(50, seed=3))).generated
        gate.open()
        await runtime.cache.flush()
        assert await runtime.cache.evict_bytes(1 << 30) > 0
        assert await runtime.cache.rows() == []


# --- gates ---------------------------------------------------------------------------------------------------


async def test_without_min_tokens_nothing_is_saved(tmp_path: Path) -> None:
    """No row, whatever happens; the same prompt is still fast from live cells."""
    async with model_at(tmp_path, policy={"min_tokens": None}) as (runtime, model):
        done = await ask(model, PROMPT, 100)
        assert done.finish_key is None
        assert (await ask(model, PROMPT)).stats.prefill_tokens == 0
        assert (await model.prefill_only(text(200, seed=1))).finish_key is None
        await runtime.evict(model)
        await runtime.unload(model)
        assert await runtime.cache.rows() == []
    assert row_files(tmp_path) == []
    assert done.cache_delta.created == 0


@pytest.mark.parametrize(
    ("policy", "prompt_ends"),
    [
        ({}, {64, 128, 192, 256}),
        ({"boundary_align_tokens": 100}, {100, 200}),
        ({"boundary_align_tokens": 100, "boundary_trim_tokens": 0}, {100, 200, 300}),
        ({"min_tokens": 150}, {192, 256}),
        ({"cold_min_tokens": 301}, set()),
        ({"cold_max_tokens": 299}, set()),
        ({"cold_max_tokens": 300, "cold_min_tokens": 300}, {64, 128, 192, 256}),
    ],
    ids=str,
)
async def test_gates_say_where_a_prompt_is_saved(policy: dict[str, int], prompt_ends: set[int]) -> None:
    """And what is saved is found again; the row at the request's end has a gate of its own."""
    async with ram_model(policy=policy) as (runtime, model):
        await ask(model, PROMPT)
        await runtime.cache.flush()
        rows = await runtime.cache.rows()
        assert {row.end for row in rows if row.reason == "cold"} == prompt_ends
        assert [row.end for row in rows if row.reason == "finish"] == [311]
        await ask(model, text(40, seed=1))
        warm = await ask(model, PROMPT)
    assert warm.cache_hit_kind == "exact"
    assert warm.reply == await cold(PROMPT)


async def test_what_is_below_min_tokens_is_not_saved() -> None:
    """Neither prompt nor reply; `explain` and the stats say so."""
    async with ram_model(policy={"min_tokens": 400}) as (runtime, model):
        done = await ask(model, PROMPT, 20)
        await runtime.evict(model)
        assert await runtime.cache.rows() == []
        why = await model.explain(PROMPT)
        assert (await ask(model, PROMPT, 120)).finish_key is not None
    assert done.finish_key is None
    assert done.stats.miss_reason == why.miss_reason == "prompts below min_tokens (400) are not saved"


async def test_the_gates_of_the_runtime_are_those_that_a_model_leaves_open(tmp_path: Path) -> None:
    """A model's own are added to them."""
    options = {"ram_quota_bytes": 64 << 20, "policy": {"min_tokens": 16, "boundary_align_tokens": 100}}
    async with erllama.Runtime(**options) as runtime:
        for name, policy in (("one", {}), ("two", {"boundary_align_tokens": 50, "boundary_trim_tokens": 0})):
            model = await runtime.load_model(name, {"backend": "stub", "policy": policy, "cache_salt": name})
            assert model.info.config.policy.min_tokens == 16
            await ask(model, text(220, seed=5))
        await runtime.cache.flush()
        ends = sorted(row.end for row in await runtime.cache.rows() if row.reason == "cold")
    assert ends == [50, 100, 100, 150, 200]


async def test_a_prompt_can_be_prefilled_and_saved_without_a_reply(tmp_path: Path) -> None:
    """`prefill_only` gives the key of its row, which the next request may name as its parent."""
    async with model_at(tmp_path) as (runtime, model):
        warmed = await model.prefill_only(PROMPT)
        assert warmed.generated == []
        assert warmed.stats.prefill_tokens == len(PROMPT)
        await runtime.cache.flush()
        assert warmed.finish_key in {row.key for row in await runtime.cache.rows() if row.end == len(PROMPT)}
        prefixes = await model.list_cached_prefixes([*PROMPT.encode(), 65])
    assert [prefix.tokens for prefix in prefixes] == [64, 128, 192, 256, 300]
    assert {prefix.tier for prefix in prefixes} == {TIER}
    assert [prefix.nbytes for prefix in prefixes] == sorted(prefix.nbytes for prefix in prefixes)
    async with model_at(tmp_path) as (_, model):
        warm = await ask(model, PROMPT, parent_key=warmed.finish_key)
    assert warm.cache_hit_kind == "exact"
    assert warm.reply == await cold(PROMPT)
