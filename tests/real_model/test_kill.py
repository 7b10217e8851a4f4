"""SmolLM2 answers, saves and is killed: the next process says the same as one without a cache, and loses no row."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.model_writer import cold_replies, kill_model_rounds

pytestmark = [pytest.mark.anyio, pytest.mark.real_model, pytest.mark.slow]

ROUNDS = int(os.environ.get("ERLLAMA_KILLS", "3"))


async def test_a_model_killed_at_random_moments_serves_nothing_wrong_and_loses_nothing(tmp_path: Path) -> None:
    """Each child begins with a prompt that the ones before it have saved, and is killed while it saves others."""
    killed = await kill_model_rounds(tmp_path / "kv", ROUNDS, seed=3, cold=await cold_replies())
    assert killed.rounds == ROUNDS
    assert killed.kept >= killed.announced > 0
