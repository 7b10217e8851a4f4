"""The judge's conversations with a real model that was never trained to call tools: grammars keep its calls valid."""

from __future__ import annotations

from pathlib import Path

import pytest

import erllama_py as erllama
from erllama_py.serve.models import fetch
from judge.play import play
from judge.stories import FORCED, LONG, NESTED, NONE, SINGLE

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.real_model]

STORIES = [SINGLE[0], NESTED[2], NONE[3], *FORCED, LONG[0]]


async def test_calls_are_valid_and_no_token_is_computed_twice(tmp_path: Path) -> None:
    """Whatever it calls, it calls well; each turn computes what is new in it."""
    config: erllama.ModelConfigDict = {"model_path": fetch("smollm2"), "context_opts": {"n_ctx": 4096, "n_seq_max": 1}}
    calls = 0
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", config)
        for story in STORIES:
            score = await play(model, story, tools_in_system=True, response_tokens=120)
            assert (score.valid, score.twice) == (score.calls, 0), score.wrong
            calls += score.calls
    assert calls >= len(FORCED)
