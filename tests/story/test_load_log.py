"""What a load says in the log: once, and in words that help."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers.embedding import embedding

import erllama_py as erllama
from erllama_py.engine.stub import StubBackend

pytestmark = pytest.mark.anyio


async def test_a_gpu_that_is_not_there_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With the option, and that the CPU computes: not again when the model comes back, nor for its second context."""
    config: Any = {"model_path": tmp_path / "m.gguf", "model_opts": {"n_gpu_layers": -1}}
    with caplog.at_level(logging.INFO, logger="erllama_py"):
        async with erllama.Runtime(backend_factory=StubBackend) as runtime:
            model = await runtime.load_model("m", config)
            model.inject_fault("actor")
            with suppress(erllama.ModelCrashed):
                await model.complete("x", response_tokens=1)
            await model.complete("x", response_tokens=1, reproducible=True)
            config["model_opts"] = {}
            await runtime.load_model("other", config)
            assert model.counters.loads == 2
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("no GPU ")]
    assert len(said) == 1
    assert "n_gpu_layers is -1, but llama.cpp finds no GPU" in said[0]
    assert "the CPU computes all layers" in said[0]


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("kind", ["encoder", "dense", "window", "recurrent", "hybrid"])
async def test_vectors_are_no_reason_for_a_warning(
    kind: str, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """Vectors are pooled here, whatever the file says of it: a second context, also a larger one, warns of nothing."""
    async with embedding(f"llama-{kind}", tmp_path_factory.getbasetemp()) as model:
        caplog.clear()
        await model.embed(["a text", "another"])
        await model.embed(["long " * 600], truncate=True)
    loud = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in loud] == []
