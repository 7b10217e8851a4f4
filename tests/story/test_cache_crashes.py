"""Crashes and cancellations with the cache at work: no request fails, nothing leaks, what was saved is back."""

from __future__ import annotations

import asyncio
import gc
import random
from pathlib import Path
from typing import Any

import pytest
from helpers.cache import (
    MEMORIES,
    PROMPT,
    TIER,
    Gate,
    Held,
    ask,
    cold,
    config,
    look_up_waits,
    model_at,
    opened,
    spans,
    stub_reply,
    text,
    tier_info,
    until_true,
)
from helpers.checkpoints import Strike, at_each_checkpoint, turns
from helpers.crashes import PARTS, Bomb, crash
from helpers.fake_cache import bytes_in, temp_files
from helpers.runtime import until

import erllama_py as erllama
from erllama_py.cache.client import CacheClient
from erllama_py.tiers.directory import DirectoryTier

pytestmark = pytest.mark.anyio

ROWS = {(0, 64), (64, 128), (128, 192), (192, 256), (256, 300), (300, 311)}


async def nothing_leaks(runtime: erllama.Runtime, root: Path) -> None:
    """The books are right, nothing is half written, nothing is pinned or reserved."""
    await runtime.cache.flush()
    # What a crash has cut off is taken back on threads, and may have left cycles of tracebacks.
    await until(lambda: temp_files(root) == [])
    info = await tier_info(runtime)
    assert info.used_bytes == bytes_in(root / "rows")
    await runtime.cache.evict_bytes(1 << 30, ["disk", "ram"])
    assert await runtime.cache.rows() == []
    assert bytes_in(root / "rows") == 0
    gc.collect()
    await until(lambda: runtime._buffers.leased == 0)


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
async def test_a_crash_between_two_requests_costs_nothing_that_was_saved(tmp_path: Path, part: str) -> None:
    """Rows of a directory are back with whoever crashed; those in memory are lost with their own tier alone."""
    async with model_at(tmp_path) as (runtime, model):
        other = await runtime.load_model("other", config(cache_salt="x"))
        for one in (model, other):
            await ask(one, PROMPT)
            await ask(one, text(40, seed=1))
        await runtime.cache.flush()
        await crash(runtime, part)
        assert await spans(runtime, TIER) >= ROWS
        assert (await spans(runtime, "ram") >= ROWS) is (part != "tier:ram")
        warm, second = await ask(model, PROMPT), await ask(other, PROMPT)
        await nothing_leaks(runtime, tmp_path)
        assert model.info.restarts == other.info.restarts == 0
    assert warm.cache_hit_kind == "exact"
    assert second.cache_hit_kind == ("cold" if part == "tier:ram" else "exact")
    assert warm.reply == second.reply == await cold(PROMPT)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
async def test_a_crash_while_rows_are_saved_costs_rows_and_no_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Reservations under way are given back, and the same prompt is saved whole when it comes again."""
    async with model_at(tmp_path) as (runtime, model):
        gate = Gate(monkeypatch, after=1)
        first = await ask(model, PROMPT)
        await gate.reached.wait()
        await crash(runtime, part)
        gate.open()
        await ask(model, text(40, seed=1))
        second = await ask(model, PROMPT)
        await runtime.cache.flush()
        await ask(model, text(40, seed=1))
        third = await ask(model, PROMPT)
        await nothing_leaks(runtime, tmp_path)
    assert third.cache_hit_kind == "exact"
    assert first.reply == second.reply == third.reply == await cold(PROMPT)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
async def test_a_crash_while_rows_are_restored_costs_time_and_no_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """A row that cannot be read any more is computed; the pins of the look-up are gone with it."""
    async with model_at(tmp_path) as (runtime, model):
        await ask(model, PROMPT)
        await ask(model, text(40, seed=1))
        await runtime.cache.flush()
        reads = Held(monkeypatch, DirectoryTier, "get")
        asked = asyncio.create_task(ask(model, PROMPT))
        await reads.reached.wait()
        await crash(runtime, part)
        reads.open()
        warm = await asked
        await nothing_leaks(runtime, tmp_path)
    assert warm.reply == await cold(PROMPT)
    assert warm.cache_hit_kind == ("cold" if part == f"tier:{TIER}" else "exact")


@pytest.mark.slow
@pytest.mark.parametrize("part", [*PARTS, "stopped"])
async def test_a_look_up_that_waits_outlives_what_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """The save that a `parent_key` names is lost with the cache or the tier: the request goes on."""
    policy = {"boundary_align_tokens": 4096, "continued_interval": 4096, "session_resume_wait_ms": 60_000}
    async with model_at(tmp_path, policy=policy) as (runtime, model):
        gate, waits = Gate(monkeypatch), look_up_waits(monkeypatch)
        first = await ask(model, PROMPT)
        await ask(model, text(40, seed=1))
        turn = [*PROMPT.encode(), *first.generated]
        asked = asyncio.create_task(ask(model, turn, parent_key=first.finish_key))
        await waits.wait()
        if part == "stopped":
            await runtime.stop_tier(TIER)
        else:
            await crash(runtime, part)
        if part == "tier:ram":
            gate.open()
        second = await asked
        gate.open()
        await runtime.cache.flush()
        assert (await ask(model, PROMPT)).reply == first.reply
    assert second.reply == await cold(turn)


@pytest.mark.slow
@pytest.mark.parametrize("on_crash", ["continue", "fail"])
async def test_the_pins_of_a_model_that_dies_are_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_crash: str
) -> None:
    """In the middle of a restore; the model is back, and warm."""
    async with model_at(tmp_path) as (runtime, model):
        await ask(model, PROMPT)
        await ask(model, text(40, seed=1))
        await runtime.cache.flush()
        reads = Held(monkeypatch, DirectoryTier, "get")
        asked = asyncio.create_task(ask(model, PROMPT, on_crash=on_crash))
        await reads.reached.wait()
        model.inject_fault("actor")
        if on_crash == "fail":
            with pytest.raises(erllama.ModelCrashed):
                await asked
            reads.open()
        else:
            await until(lambda: model.info.restarts == 1)
            reads.open()
            assert (await asked).cache_hit_kind == "exact"
        warm = await ask(model, PROMPT)
        assert warm.cache_hit_kind == ("exact" if on_crash == "fail" else "live")
        await nothing_leaks(runtime, tmp_path)
    assert warm.reply == await cold(PROMPT)


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("where", ["actor", "thread", "decode"])
@pytest.mark.parametrize("on_crash", ["continue", "fail"])
async def test_a_model_that_dies_is_warm_when_it_is_back(tmp_path: Path, where: Any, on_crash: str) -> None:
    """What it had saved by then; what was pending arrives without it. A request that goes on begins with it too."""
    async with model_at(tmp_path, stub={"seconds_per_token": 0.002}) as (runtime, model):
        asked = asyncio.create_task(ask(model, PROMPT, 300, on_crash=on_crash))

        async def saved() -> bool:
            return (192, 256) in await spans(runtime, TIER)

        await until_true(saved)
        model.inject_fault(where)
        if on_crash == "fail":
            with pytest.raises(erllama.ModelCrashed):
                await asked
        else:
            assert (await asked).stats.prefill_tokens < 2 * len(PROMPT)
        warm = await ask(model, PROMPT)
        assert warm.cache_delta.read >= 256
        await nothing_leaks(runtime, tmp_path)
    assert warm.reply == await cold(PROMPT)


@pytest.mark.slow
async def test_a_caller_that_is_cancelled_anywhere_leaves_no_trace(tmp_path: Path) -> None:
    """During look-up, restore and decode: nothing stays pinned, and the same request is answered as ever."""
    roots = iter(tmp_path / str(number) for number in range(1000))
    expected = await cold(PROMPT)

    async def scenario(strike: Strike) -> None:
        root = next(roots)
        async with model_at(root) as (runtime, model):
            await ask(model, PROMPT)
            await ask(model, text(40, seed=1))
            await runtime.cache.flush()
            asked = asyncio.create_task(strike.coroutine(ask(model, PROMPT)))
            await asyncio.wait((asked,))
            assert asked.cancelled() is strike.struck
            assert (await ask(model, PROMPT)).reply == expected
            await nothing_leaks(runtime, root)

    assert await at_each_checkpoint(scenario) >= 1


@pytest.mark.parametrize("where", ["look-up", "read", "restore"])
async def test_a_caller_that_is_cancelled_while_its_start_is_under_way_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Held up in the look-up, at the first row or between two rows."""
    async with model_at(tmp_path) as (runtime, model):
        await ask(model, PROMPT)
        await ask(model, text(40, seed=1))
        await runtime.cache.flush()
        method, after = {"look-up": ("find", 0), "read": ("read", 0), "restore": ("read", 2)}[where]
        held = Held(monkeypatch, CacheClient, method, after)
        asked = asyncio.create_task(ask(model, PROMPT))
        await held.reached.wait()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await until(lambda: model.phase == "idle")
        held.open()
        warm = await ask(model, PROMPT)
        await nothing_leaks(runtime, tmp_path)
    assert warm.reply == await cold(PROMPT)


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("part", ["cache", f"tier:{TIER}"])
async def test_a_crash_while_a_full_tier_makes_room_loses_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Rows that were to be removed are still there and known, or gone: not one byte is taken by unknown files."""
    async with model_at(tmp_path, quota_bytes=1 << 20) as (runtime, model):
        number = 0
        while (await runtime.cache.counters()).get(f"evicted.{TIER}", 0) == 0:
            number += 1
            await ask(model, text(700, seed=number))
            await runtime.cache.flush()
        deletes = Held(monkeypatch, DirectoryTier, "delete")
        last = await ask(model, PROMPT)
        await deletes.reached.wait()
        await crash(runtime, part)
        deletes.open()
        assert last.reply == await cold(PROMPT)
        await nothing_leaks(runtime, tmp_path)


@pytest.mark.slow
async def test_a_cache_that_crashes_while_a_tier_opens_learns_all_of_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of what the tier finds comes before it has introduced itself to the new one."""
    async with model_at(tmp_path) as (_, model):
        await ask(model, PROMPT)
    found, go_on = asyncio.Event(), asyncio.Event()
    tell_rows, introduce = DirectoryTier.tell_rows, DirectoryTier.introduce

    def introduce_late(tier: DirectoryTier) -> None:
        tier.tasks.start(late(tier))

    async def late(tier: DirectoryTier) -> None:
        await found.wait()
        introduce(tier)

    async def tell_late(tier: DirectoryTier, *report: Any) -> None:
        await go_on.wait()
        tell_rows(tier, *report)
        found.set()

    monkeypatch.setattr(DirectoryTier, "tell_rows", lambda tier, *report: tier.tasks.start(tell_late(tier, *report)))
    monkeypatch.setattr(DirectoryTier, "introduce", introduce_late)
    async with erllama.Runtime() as runtime:
        await runtime.start_tier(TIER, {"kind": "disk", "root": tmp_path})
        before = runtime._names.whereis("cache")
        assert before is not None
        before.cast(Bomb())
        await until(lambda: runtime._names.whereis("cache") not in (before, None))
        monkeypatch.setattr(DirectoryTier, "tell_rows", tell_rows)
        go_on.set()
        await opened(runtime)
        assert await spans(runtime) == ROWS
        assert "2 restarts" not in str(runtime.tree())
        model = await runtime.load_model("m", config(kind="disk"))
        assert (await ask(model, PROMPT)).cache_hit_kind == "exact"


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_no_reply_is_wrong(tmp_path: Path, memory: str, seed: int) -> None:
    """Two models, prompts that share beginnings, small tiers, evictions, cancellations, a crash, restarts."""
    choice = random.Random(seed)
    pool = [list(text(choice.randrange(1, 700), number).encode()) for number in range(4)]
    for life in range(3):
        policy = {"boundary_align_tokens": choice.choice((16, 64, 100)), "continued_interval": choice.choice((5, 64))}
        async with model_at(tmp_path, memory, quota_bytes=1 << 20, policy=policy) as (runtime, model):
            models = [model, await runtime.load_model("other", config(memory, policy=policy))]
            for step in range(20):
                one, prompt, length = choice.choice(models), list(choice.choice(pool)), choice.choice((1, 12, 60))
                prompt = prompt[: choice.randrange(1, len(prompt) + 1)] + list(text(choice.randrange(90), 9).encode())
                if life == 1 and step == 10:
                    await crash(runtime, choice.choice(PARTS))
                if step % 7 == 3:
                    await runtime.evict(one)
                    await runtime.cache.evict_bytes(1 << 15, ["ram", "disk"])
                if step % 5 == 2:
                    cancelled = asyncio.create_task(ask(one, prompt, 200))
                    await turns(choice.randrange(60))
                    cancelled.cancel()
                    await asyncio.wait((cancelled,))
                prompts = (prompt, prompt[: len(prompt) // 2 + 1], choice.choice(pool))
                replies = await asyncio.gather(*(ask(choice.choice(models), part, length) for part in prompts))
                for part, done in zip(prompts, replies, strict=True):
                    assert done.generated == stub_reply(part, length)
                    assert done.cache_delta.read + done.stats.prefill_tokens == len(part)
                pool[choice.randrange(4)] = (prompt + replies[0].generated)[:800]
    async with model_at(tmp_path, memory) as (runtime, _):
        await nothing_leaks(runtime, tmp_path)
