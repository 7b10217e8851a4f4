"""Whose rows a model finds: what its file and its backend say of themselves reaches the keys, as stubs show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.cache import CONTEXT, PROMPT, ask, model_at, ram_model

from erllama_py.cache.keys import Identity
from erllama_py.engine import BackendFactory
from erllama_py.engine.backend import FileFacts, ModelFacts
from erllama_py.engine.stub import StubBackend
from erllama_py.options.model import ModelConfig

pytestmark = pytest.mark.anyio

N_CTX = CONTEXT["n_ctx"]


def saying(file: dict[str, Any], model: dict[str, Any]) -> BackendFactory:
    """Makes stubs that state other facts of the file and of the loaded model."""

    class Saying(StubBackend):
        def inspect(self) -> FileFacts:
            return msgspec.structs.replace(super().inspect(), **file)

        def load(self, progress: Callable[[float], bool]) -> ModelFacts:
            return msgspec.structs.replace(super().load(progress), **model)

    def make(model_id: str, config: ModelConfig) -> StubBackend:
        return Saying(model_id, config)

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "model"),
    [
        ({}, {"build": "stub-2"}),
        ({}, {"flash_attn": True}),
        ({"quant_bits": 4}, {}),
        ({"long_rope_above": N_CTX - 1}, {}),
    ],
    ids=["build", "flash_attn", "quant_bits", "long_rope"],
)
async def test_a_model_that_computes_other_cells_finds_nothing(
    tmp_path: Path, file: dict[str, Any], model: dict[str, Any]
) -> None:
    """Of the same file, by the same settings. What each has saved stays its own, and is found again."""
    for make in (saying({}, {}), saying(file, model)):
        async with model_at(tmp_path, make=make) as (_, loaded):
            first = await ask(loaded, PROMPT)
        async with model_at(tmp_path, make=make) as (_, loaded):
            again = await ask(loaded, PROMPT)
        assert (first.cache_hit_kind, first.cache_delta.read) == ("cold", 0)
        assert again.cache_hit_kind == "exact"


@pytest.mark.parametrize("above", [N_CTX, N_CTX + 1])
async def test_factors_for_long_contexts_count_where_they_are_used(tmp_path: Path, above: int) -> None:
    """A context that is not longer than the model was first trained for is rotated as if there were none."""
    async with model_at(tmp_path) as (_, loaded):
        await ask(loaded, PROMPT)
    async with model_at(tmp_path, make=saying({"long_rope_above": above}, {})) as (_, loaded):
        assert (await ask(loaded, PROMPT)).cache_hit_kind == "exact"


async def test_rows_of_another_build_go_first() -> None:
    """The build that saved last runs the model now: rows of other builds are useless, whatever they would save."""
    async with ram_model(make=saying({}, {"build": "newer"})) as (runtime, model):
        info, cache = model.info, runtime.cache
        identity = Identity(bytes.fromhex(info.fingerprint), info.quant_bits, bytes.fromhex(info.ctx_params_hash))
        await cache.put(identity, [2], 0, b"of no use", build="older", prefill_seconds=1000.0)
        await cache.put(identity, [1], 0, b"of use", build="newer", prefill_seconds=0.001)
        await cache.flush()
        await cache.evict_bytes(1)
        assert {row.build for row in await cache.rows()} == {"newer"}
