"""What a load makes of sizes that are left to the model's file, and of a GPU that is not there."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from helpers.tiny_gguf import CONTEXT, tiny_gguf

import erllama_py as erllama

pytestmark = pytest.mark.anyio


@pytest.mark.slow
async def test_a_context_of_0_is_that_of_the_file_and_a_missing_gpu_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After a crash, too; the configuration that is shown has the number."""
    config: erllama.ModelConfigDict = {
        "model_path": tiny_gguf("dense", tmp_path),
        "context_opts": {"n_ctx": 0, "n_threads": 1},
        "model_opts": {"n_gpu_layers": 99},
    }
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", config)
        assert model.info.context_size == model.info.config.context_opts.n_ctx == CONTEXT
        model.inject_fault()
        with suppress(erllama.ModelCrashed):  # that call may be before the fault
            await model.complete("a", response_tokens=2)
        assert (await model.complete("a", response_tokens=2)).generated
        assert model.info.context_size == CONTEXT
    assert any("n_gpu_layers is 99" in record.getMessage() for record in caplog.records)
