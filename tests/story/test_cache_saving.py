"""What is saved, when, and what waits for it: gates, `parent_key`, cancelled requests, evicting, unloading."""

from __future__ import annotations

import asyncio
import functools
import threading
from pathlib import Path

import anyio
import pytest
from helpers.cache import (
    MEMORIES,
    PROMPT,
    TIER,
    Gate,
    Stalling,
    ask,
    cold,
    look_up_waits,
    model_at,
    ram_model,
    row_files,
    text,
)
from helpers.runtime import GatedBackend, until

import erllama_py as erllama
from erllama_py.errors import TierFailed

pytestmark = pytest.mark.anyio

# Nothing but the row at a request's end is saved: the story of one save.
FINISH_ONLY = {"boundary_align_tokens": 4096, "continued_interval": 4096, "session_resume_wait_ms": 60_000}


async def first_turn(model: erllama.Model) -> tuple[erllama.Completion, list[int]]:
    """A turn whose save is under way, and the prompt of the next one."""
    first = await ask(model, PROMPT)
    await ask(model, text(40, seed=1))  # other cells: the next turn needs rows
    return first, [*PROMPT.encode(), *first.generated, *b" and then?"]


# --- parent_key ----------------------------------------------------------------------------------------------


async def test_a_save_that_the_parent_key_names_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next turn comes before its rows are stored: it starts once they are, and counts as resumed."""
    async with ram_model(policy=FINISH_ONLY) as (runtime, model):
        gate, waits = Gate(monkeypatch), look_up_waits(monkeypatch)
        first, turn = await first_turn(model)
        async with asyncio.TaskGroup() as group:
            second = group.create_task(ask(model, turn, parent_key=first.finish_key))
            await waits.wait()
            gate.open()
        warm = second.result()
        counters = await runtime.cache.counters()
    assert warm.cache_delta.read == first.committed_tokens
    assert warm.stats.tier == "ram"
    assert counters["hits.resume"] == 1
    assert warm.reply == await cold(turn)


async def test_a_prompt_that_is_only_computed_waits_for_its_parent_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As any request does that names one."""
    async with ram_model(policy=FINISH_ONLY) as (runtime, model):
        gate, waits = Gate(monkeypatch), look_up_waits(monkeypatch)
        first, turn = await first_turn(model)
        async with asyncio.TaskGroup() as group:
            second = group.create_task(model.prefill_only(turn, parent_key=first.finish_key))
            await waits.wait()
            gate.open()
        assert second.result().cache_delta.read == first.committed_tokens
        assert (await runtime.cache.counters())["hits.resume"] == 1


async def test_turns_of_a_session_do_not_count_as_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their key is the runtime's own, also where they wait for its row: the caller has named none."""
    async with ram_model(policy={**FINISH_ONLY, "min_tokens": 8}) as (runtime, model):
        taken = runtime._buffers.take(runtime._buffers.budget)
        first = await ask(model, PROMPT, session_id="s")
        del taken
        gate, waits = Gate(monkeypatch), look_up_waits(monkeypatch)
        await ask(model, text(40, seed=1))  # pushes the session's sequence out
        async with asyncio.TaskGroup() as group:
            turn = [*PROMPT.encode(), *first.generated, *b" and then?"]
            second = group.create_task(ask(model, turn, session_id="s"))
            await waits.wait()
            gate.open()
        counters = await runtime.cache.counters()
    assert second.result().cache_delta.read == first.committed_tokens
    assert ("hits.resume" in counters, counters["hits.partial"]) == (False, 1)


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
    """No look-up waits for a row that will not come."""
    async with ram_model(policy=FINISH_ONLY) as (runtime, model):
        gate, waits = Gate(monkeypatch), look_up_waits(monkeypatch)
        first, turn = await first_turn(model)
        async with asyncio.TaskGroup() as group:
            second = group.create_task(ask(model, turn, parent_key=first.finish_key))
            await waits.wait()
            gate.error = TierFailed("ram", "not today")
            gate.open()
        counters = await runtime.cache.counters()
    assert second.result().cache_hit_kind == "cold"
    assert counters["saves.dropped.TierFailed"] >= 1
    assert second.result().reply == await cold(turn)


async def test_a_caller_that_waits_for_a_parent_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is free for the next request at once, and nothing stays pinned."""
    async with ram_model(policy=FINISH_ONLY) as (runtime, model):
        gate, waits = Gate(monkeypatch), look_up_waits(monkeypatch)
        first, turn = await first_turn(model)
        second = asyncio.create_task(ask(model, turn, parent_key=first.finish_key))
        await waits.wait()
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
        ({}, {64, 128, 192, 256, 300}),
        ({"boundary_align_tokens": 100}, {100, 200, 300}),
        ({"boundary_align_tokens": 100, "boundary_trim_tokens": 0}, {100, 200, 300}),
        ({"min_tokens": 150}, {192, 256, 300}),
        ({"cold_min_tokens": 301}, set()),
        ({"cold_max_tokens": 299}, set()),
        ({"cold_max_tokens": 300, "cold_min_tokens": 300}, {64, 128, 192, 256, 300}),
    ],
    ids=str,
)
async def test_gates_say_where_a_prompt_is_saved(policy: dict[str, int], prompt_ends: set[int]) -> None:
    """And what is saved is found again; the reply's row has a gate of its own, and begins where the prompt ends."""
    async with ram_model(policy=policy) as (runtime, model):
        await ask(model, PROMPT)
        await runtime.cache.flush()
        rows = await runtime.cache.rows()
        assert {row.end for row in rows if row.reason == "cold"} == prompt_ends
        assert {row.end for row in rows if row.reason == "finish"} == ({311} if prompt_ends else {300, 311})
        assert [row.start for row in rows if row.end == 311] == [300]
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


async def test_the_gates_of_the_runtime_are_those_that_a_model_leaves_open() -> None:
    """A model's own are added to them."""
    gates: erllama.PolicyOptsDict = {"min_tokens": 16, "boundary_align_tokens": 100}
    async with erllama.Runtime(ram_quota_bytes=64 << 20, policy=gates) as runtime:
        given: dict[str, erllama.PolicyOptsDict] = {
            "one": {}, "two": {"boundary_align_tokens": 50, "boundary_trim_tokens": 0},
        }  # fmt: skip
        for name, policy in given.items():
            model = await runtime.load_model(name, {"backend": "stub", "policy": policy, "cache_salt": name})
            assert model.info.config.policy.min_tokens == 16
            await ask(model, text(220, seed=5))
        await runtime.cache.flush()
        ends = sorted(row.end for row in await runtime.cache.rows() if row.reason == "cold")
    assert ends == [50, 100, 100, 150, 220, 220]


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


# --- requests that do not come to their end ------------------------------------------------------------------


async def test_a_generation_that_is_cancelled_leaves_what_it_computed(tmp_path: Path) -> None:
    """Prompt and the reply so far are saved; the same conversation continues from there after a restart."""
    make = Stalling(after=2 + 20)
    async with model_at(tmp_path, make=make) as (_, model):
        stream = model.stream(PROMPT, temperature=0.0, response_tokens=300)
        async with stream as events:
            await until(make.stalled.is_set)
            events.cancel()
            *_, last = [event async for event in events]
        assert isinstance(last, erllama.Done)
        done = last.completion
    assert done.finish_reason == "cancelled"
    assert done.finish_key is not None
    assert done.committed_tokens == len(PROMPT) + 20
    turn = [*PROMPT.encode(), *done.generated, *b" and then?"]
    async with model_at(tmp_path) as (_, model):
        warm = await ask(model, turn, parent_key=done.finish_key)
    assert warm.cache_delta.read == done.committed_tokens
    assert warm.reply == await cold(turn)


@pytest.mark.slow
@pytest.mark.parametrize(("memory", "kept"), [("full", 512), ("window", 128), ("recurrent", 128), ("hybrid", 128)])
async def test_a_prefill_that_is_cancelled_leaves_what_it_computed(tmp_path: Path, memory: str, kept: int) -> None:
    """Two decodes of a prompt are two decodes spared: one with rows to copy out ends where the row can still be had."""
    prompt = text(1500, seed=6)
    make = Stalling(after=2)
    async with model_at(tmp_path, memory, make=make) as (_, model):
        asked = asyncio.create_task(ask(model, prompt))
        await until(make.stalled.is_set)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await until(lambda: model.phase == "idle")
    async with model_at(tmp_path, memory) as (_, model):
        warm = await ask(model, prompt)
    assert warm.cache_delta.read == kept
    assert warm.reply == await cold(prompt, memory=memory)


# --- what is idle --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("how", ["unload", "close", "evict"])
async def test_what_was_not_saved_is_saved_at_the_end(tmp_path: Path, memory: str, how: str) -> None:
    """A save that found no buffer is made up for when the model is unloaded or evicted, or the runtime closed."""
    async with model_at(tmp_path, memory, policy=FINISH_ONLY) as (runtime, model):
        taken = runtime._buffers.take(runtime._buffers.budget)
        first = await ask(model, PROMPT)
        assert first.finish_key is None
        assert await runtime.cache.rows() == []
        del taken
        if how == "evict":
            await runtime.evict(model)
            reasons = {row.reason for row in await runtime.cache.rows()}
            assert reasons == {"evict"}
        elif how == "unload":
            await runtime.unload(model)
            assert {row.reason for row in await runtime.cache.rows()} == {"shutdown"}
    turn = [*PROMPT.encode(), *first.generated, *b" and then?"]
    async with model_at(tmp_path, memory) as (_, model):
        warm = await ask(model, turn)
    assert warm.cache_delta.read == first.committed_tokens
    assert warm.reply == await cold(turn, memory=memory)


async def test_evicting_a_model_frees_its_cells() -> None:
    """The next request has its prefix from the tier, not from live cells; the model stays loaded."""
    async with ram_model() as (runtime, model):
        first = await ask(model, PROMPT)
        await runtime.evict(model)
        again = await ask(model, PROMPT + "!")
        await runtime.evict("m")
        await runtime.evict("m")  # nothing is left to do
        assert model.phase == "idle"
    assert first.reply == await cold(PROMPT)
    assert again.stats.tier == "ram"
    assert again.cache_delta.read == len(PROMPT)
    assert again.reply == await cold(PROMPT + "!")


async def test_evicting_leaves_those_at_work_alone() -> None:
    """Idle sequences are saved and forgotten at once; requests at work end as usual."""
    gate, other = threading.Event(), text(200, seed=3)
    make = functools.partial(GatedBackend, gate=gate)
    async with ram_model(make=make, context_opts={"n_seq_max": 3}) as (runtime, model):
        gate.set()
        await ask(model, other)
        gate.clear()
        asked = [asyncio.create_task(ask(model, PROMPT + end, 100)) for end in ("", "!")]
        await until(lambda: model.phase == "prefilling" and model.queue_depth == 2)
        assert (await model.explain(other)).live_tokens == len(other)
        await runtime.evict(model)
        assert not any(task.done() for task in asked)
        found = await model.explain(other)
        assert (found.live_tokens, found.hit_tokens) == (0, 200)
        gate.set()
        for task, end in zip(asked, ("", "!"), strict=True):
            assert (await task).reply == await cold(PROMPT + end, 100)


@pytest.mark.parametrize("how", ["unload", "close", "evict"])
async def test_a_tier_that_hangs_delays_no_end_beyond_its_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """`evict_save_timeout_ms` is the longest that unloading, evicting and closing wait."""
    gate = Gate(monkeypatch)
    with anyio.fail_after(10):
        async with model_at(tmp_path, policy={"evict_save_timeout_ms": 20}) as (runtime, model):
            await ask(model, PROMPT)
            await gate.reached.wait()
            if how == "unload":
                await runtime.unload(model)
            elif how == "evict":
                await runtime.evict(model)
                assert (await ask(model, PROMPT)).stats.prefill_tokens == len(PROMPT)
    assert not any(path.name.endswith(".tmp") for path in row_files(tmp_path))
