"""Requests that come while a directory is being opened: what is in it may be theirs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from helpers.cache import PROMPT, TIER, Held, ask, cold, look_up_waits, model_at, spans, text
from helpers.crashes import crash
from helpers.runtime import until

from erllama_py.tiers.directory import DirectoryTier

pytestmark = pytest.mark.anyio

OPENING = {"known": False}
PATIENT = {"session_resume_wait_ms": 60_000}


async def fill(root: Path) -> None:
    """A directory with the rows of the prompt."""
    async with model_at(root) as (runtime, model):
        await ask(model, PROMPT)
        await runtime.cache.flush()


async def test_a_request_waits_for_a_directory_that_is_being_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that come meanwhile; those whose prompt is not there are cold then."""
    await fill(tmp_path)
    scan, waits = Held(monkeypatch, DirectoryTier, "_scan"), look_up_waits(monkeypatch)
    async with model_at(tmp_path, policy=PATIENT, runtime_options=OPENING) as (_, model):
        prompts = [PROMPT, text(200, seed=1)]
        asked = [asyncio.create_task(ask(model, prompt)) for prompt in prompts]
        await waits.wait()
        scan.open()
        warm, other = await asyncio.gather(*asked)
    assert (warm.cache_hit_kind, warm.stats.tier) == ("exact", TIER)
    assert other.cache_hit_kind == "cold"
    assert [warm.reply, other.reply] == [await cold(prompt) for prompt in prompts]


@pytest.mark.parametrize("wait_ms", [0, 1])
async def test_a_request_waits_no_longer_than_it_is_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_ms: int
) -> None:
    """It is computed; nothing that was on the way is lost."""
    await fill(tmp_path)
    scan = Held(monkeypatch, DirectoryTier, "_scan")
    async with model_at(tmp_path, policy={"session_resume_wait_ms": wait_ms}, runtime_options=OPENING) as (
        runtime,
        model,
    ):
        early = await ask(model, PROMPT)
        scan.open()
        await runtime.cache.flush()
    assert early.cache_hit_kind == "cold"
    assert early.reply == await cold(PROMPT)


@pytest.mark.slow
async def test_a_tier_that_ends_while_it_is_being_opened_lets_them_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are answered from what is known, and the tier that is back brings its rows."""
    await fill(tmp_path)
    scan, waits = Held(monkeypatch, DirectoryTier, "_scan"), look_up_waits(monkeypatch)
    async with model_at(tmp_path, policy=PATIENT, runtime_options=OPENING) as (runtime, model):
        asked = asyncio.create_task(ask(model, PROMPT))
        await waits.wait()
        crashed = asyncio.create_task(crash(runtime, f"tier:{TIER}"))
        early = await asked
        scan.open()
        await crashed
        assert (await spans(runtime, TIER)) != set()
    assert early.cache_hit_kind == "cold"
    assert early.reply == await cold(PROMPT)


async def test_a_request_that_gives_up_its_wait_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled while the directory is being opened: its turn is free, the next one is served."""
    await fill(tmp_path)
    scan, waits = Held(monkeypatch, DirectoryTier, "_scan"), look_up_waits(monkeypatch)
    async with model_at(tmp_path, policy=PATIENT, runtime_options=OPENING) as (_, model):
        asked = asyncio.create_task(ask(model, PROMPT))
        await waits.wait()
        asked.cancel()
        await asyncio.wait({asked})
        await until(lambda: model.queue_depth == 0)
        scan.open()
        assert (await ask(model, PROMPT)).cache_hit_kind == "exact"


async def test_an_opening_that_fails_delays_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They go on with the rows that are known; the loop's handler gets the reason, and the tier takes new ones."""
    await fill(tmp_path)

    def fail(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr("erllama_py.tiers.opening.look_at", fail)
    loop, complaints = asyncio.get_running_loop(), list[object]()
    loop.set_exception_handler(lambda _, context: complaints.append(context["exception"]))
    async with model_at(tmp_path, policy=PATIENT) as (runtime, model):
        early = await ask(model, PROMPT)
        await ask(model, text(200, seed=1))
        await runtime.cache.flush()
        assert await spans(runtime, TIER) != set()
    loop.set_exception_handler(None)
    assert early.cache_hit_kind == "cold"
    (complaint,) = complaints
    assert isinstance(complaint, BaseExceptionGroup)
    assert complaint.subgroup(MemoryError) is not None
