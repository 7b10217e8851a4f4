"""`reproducible=True` with SmolLM2 and Gemma 3: the same bits alone, among streams, live and restored.

`benchmarks/reproducible.py` does it with 200 prompts, and shows that plain requests differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from helpers.reproducible import Bits, Recorder

import erllama_py as erllama
from erllama_py.serve.models import fetch

pytestmark = [pytest.mark.anyio, pytest.mark.real_model, pytest.mark.slow]

TEXT = "The lighthouse keeper carried wood up the hill every evening, and came down when the ships had passed. " * 6
QUESTIONS = ["Who carried wood?", "When did he come down, and why then?", "What passes?"]
ASKED: dict[str, Any] = {"response_tokens": 10, "temperature": 0.9, "seed": 3}
STREAMS = 8


def config(name: str) -> Any:
    return {
        "model_path": fetch(name), "context_opts": {"n_ctx": 2048, "n_seq_max": 9}, "tier": "disk", "tier_srv": "d",
        "policy": {"min_tokens": 64, "boundary_align_tokens": 64},
    }  # fmt: skip


async def write_on(model: erllama.Model, seed: int) -> None:
    while True:
        await model.complete(f"A story, number {seed}:", response_tokens=100, seed=seed)


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
async def test_the_same_bits_alone_and_among_streams_cold_live_and_restored(name: str, tmp_path: Path) -> None:
    """Three questions about one text: each alone, then among eight streams, and again by a new runtime."""
    expected: list[Bits] = []
    for root in ("alone", "among", "among"):
        recorder, tiers = Recorder(), {"d": erllama.DiskTier(str(tmp_path / root), quota_bytes=1 << 30)}
        async with erllama.Runtime(backend_factory=recorder.make, tiers=tiers) as runtime:
            model = await runtime.load_model("m", config(name))
            prompts = [await model.tokenize(f"{TEXT}\n{question}\n") for question in QUESTIONS]
            async with anyio.create_task_group() as streams:
                for seed in range(0 if root == "alone" else STREAMS):
                    streams.start_soon(write_on, model, seed)
                found = [await recorder.ask(model, prompt, **ASKED) for prompt in prompts]
                streams.cancel_scope.cancel()
        expected = expected or [bits for bits, _ in found]
        assert [bits for bits, _ in found] == expected
    assert found[0][1].stats.tier == "d"
    assert all(done.cache_delta.read >= 64 for _, done in found)
