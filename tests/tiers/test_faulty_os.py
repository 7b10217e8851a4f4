"""Every call of the operating system fails at random, and files are damaged: nothing wrong is served, and all heals."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from helpers.faulty_os import attack

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ROUNDS = int(os.environ.get("ERLLAMA_FAULTS", "12"))


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """One event loop is enough here: it is the file system that is tested."""
    return "asyncio", {"use_uvloop": False}


async def test_calls_that_fail_at_random_lose_no_row_and_serve_nothing_wrong(tmp_path: Path) -> None:
    """With any error, at any call, for a while; then rows are saved, and what the cache knows is what lies there."""
    failed = Counter[str]()
    for seed in range(ROUNDS):
        with pytest.MonkeyPatch.context() as monkeypatch:
            failed += await attack(tmp_path / str(seed), monkeypatch, seed)
    assert len(failed) > 5
