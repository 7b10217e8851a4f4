"""A short soak of a model that crashes all the time: nothing leaks, hangs or is answered wrongly.

`benchmarks/crash_soak.py` is the long one.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from helpers.crash_soak import CrashSoak, Isolation, crash_soaked
from helpers.leftovers import belongings, same_as
from helpers.runtime import engine_threads, stub_runtime, until
from helpers.storm import crashes
from helpers.tiny_gguf import Kind
from helpers.watched import Watch

import erllama_py as erllama

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.either_loop]

CRASHES = crashes(6)
REQUESTS = 40  # between two crashes


def has_asked(soak: CrashSoak, requests: int) -> bool:
    """Whether it has made so many."""
    return soak.done["requests"] >= requests


async def by_requests(soak: CrashSoak) -> AsyncIterator[None]:
    """One crash after so many requests."""
    for number in range(1, CRASHES + 1):
        await until(partial(has_asked, soak, number * REQUESTS), 120)
        yield


@pytest.mark.parametrize(("isolation", "kind"), [("thread", "dense"), ("process", "dense"), ("process", "recurrent")])
async def test_a_model_that_crashes_is_soaked(
    isolation: Isolation, kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All requests have ended, nothing is pinned, no task, thread, process, descriptor or segment is left."""
    async with erllama.Runtime() as runtime:  # so that nothing is made for the first time later
        await crash_soaked(runtime, isolation, kind, tmp_path, Watch(monkeypatch))
    tasks, before, watch = asyncio.all_tasks(), belongings(), Watch(monkeypatch)
    async with erllama.Runtime() as runtime:
        soak = await crash_soaked(runtime, isolation, kind, tmp_path, watch)
        async with soak.crashing(by_requests):
            await soak.round(CRASHES * REQUESTS // 2)
            await soak.round(CRASHES * REQUESTS)
        await soak.end()
    print(soak.done)
    assert soak.done["crashes"] >= CRASHES - 1  # the last one may come when all is over
    assert all(soak.done[what] for what in ("length", "cancelled", "restored", "embedded", "with a schema"))
    assert asyncio.all_tasks() == tasks
    assert engine_threads() == []
    await same_as(before)


async def test_a_watch_keeps_no_engine_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor what lies in its queue: a row that it did not come to would look as if it had been left behind."""
    watch = Watch(monkeypatch)
    async with stub_runtime() as (_, model):
        await model.complete("hello", response_tokens=2)
        assert set(watch.workers) == set(watch._engines) == {"m"}
        await model.unload()
        gc.collect()
        assert not watch.workers
        assert not watch._engines
