"""A short soak: callers who do everything at random, and nothing leaks, hangs or is answered wrongly.

`benchmarks/soak.py` is the long one.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from helpers.runtime import engine_threads
from helpers.soak import SUBJECTS, Subject, soaked
from helpers.watched import Watch

import erllama_py as erllama

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ROUNDS, REQUESTS = 2, 120


@pytest.mark.parametrize("subject", SUBJECTS, ids="-".join)
async def test_a_model_is_soaked(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All requests have ended, nothing is pinned, no cell is used without a request, no task and no thread is left."""
    tasks, watch = asyncio.all_tasks(), Watch(monkeypatch)
    async with erllama.Runtime() as runtime:
        soak = await soaked(runtime, subject, tmp_path, watch)
        for _ in range(ROUNDS):
            await soak.round(REQUESTS)
        await soak.end()
    assert soak.done["requests"] == ROUNDS * REQUESTS
    assert all(soak.done[what] for what in ("length", "cancelled", "restored"))  # so it was no idle day
    assert asyncio.all_tasks() == tasks
    assert engine_threads() == []
