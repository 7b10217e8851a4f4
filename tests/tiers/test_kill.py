"""A writer that is killed at random moments: what it has announced is there, and everything that is there is whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.row_writer import kill_rounds

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ROUNDS = int(os.environ.get("ERLLAMA_KILLS", "20"))


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """One event loop is enough here: it is the file system that is tested."""
    return "asyncio", {"use_uvloop": False}


async def test_a_writer_killed_at_random_moments_loses_nothing_that_it_announced(tmp_path: Path) -> None:
    """After each kill the directory opens, temp files are gone, and every row is whole."""
    killed = await kill_rounds(tmp_path / "kv", ROUNDS, seed=3)
    assert killed.rounds == ROUNDS
    assert killed.kept >= killed.announced > ROUNDS
    # Otherwise the kills came at moments that prove little.
    assert killed.with_temp_files >= ROUNDS // 2
