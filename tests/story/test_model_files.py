"""Which weights a row was computed with, through llama.cpp: models in several files, and files that change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.runtime import engine_threads
from helpers.tiny_gguf import split_gguf, tiny_gguf
from helpers.tiny_t5 import KINDS, Kind, tiny_t5

import erllama_py as erllama
from erllama_py.engine.backend import ModelFacts
from erllama_py.engine.llama import LlamaBackend

pytestmark = pytest.mark.anyio

PROMPT = [(7 * place + place * place) % 250 for place in range(150)]


def config(path: Path, **options: Any) -> Any:
    return {
        "model_path": path,
        "context_opts": {"n_ctx": 512, "n_seq_max": 1, "n_batch": 128, "n_ubatch": 64, "n_threads": 1},
        "tier": "disk", "tier_srv": "d",
        "policy": {"min_tokens": 32, "boundary_align_tokens": 32, "boundary_trim_tokens": 8},
        **options,
    }  # fmt: skip


def runtime_at(root: Path, **options: Any) -> erllama.Runtime:
    """A runtime with a disk tier and remembered fingerprints in `root`."""
    tiers = {"d": erllama.DiskTier(str(root / "rows"), quota_bytes=1 << 30)}
    return erllama.Runtime(home=root / "home", tiers=tiers, **options)


async def ask(root: Path, options: Any) -> tuple[erllama.ModelInfo, erllama.Completion]:
    """What a new runtime says of the model and of the prompt."""
    async with runtime_at(root) as runtime:
        model = await runtime.load_model("m", options)
        return model.info, await model.complete(PROMPT, temperature=0.0, response_tokens=12)


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("metadata_apart", [False, True])
@pytest.mark.parametrize("mode", ["safe", "gguf_chunked"])
async def test_models_that_share_their_first_part_share_no_rows(
    tmp_path: Path, mode: str, metadata_apart: bool
) -> None:
    """Two fine-tunes have the same metadata and embeddings; only the later parts differ."""
    one = split_gguf("dense", tmp_path / "one", metadata_apart=metadata_apart)
    other = split_gguf("dense", tmp_path / "other", metadata_apart=metadata_apart, other_end=True)
    assert one[0].read_bytes() == other[0].read_bytes()
    (info, first) = await ask(tmp_path, config(one[0], fingerprint_mode=mode))
    (other_info, over_its_rows) = await ask(tmp_path, config(other[0], fingerprint_mode=mode))
    (_, alone) = await ask(tmp_path / "apart", config(other[0], fingerprint_mode=mode))
    (again, warm) = await ask(tmp_path, config(one[0], fingerprint_mode=mode))
    assert info.fingerprint == again.fingerprint != other_info.fingerprint
    assert over_its_rows.cache_hit_kind == "cold"
    assert over_its_rows.generated == alone.generated != first.generated
    assert (warm.cache_hit_kind, warm.generated) == ("exact", first.generated)


async def test_progress_counts_the_bytes_of_all_parts(tmp_path: Path) -> None:
    """Hashed and loaded."""
    parts, seen = split_gguf("dense", tmp_path), list[erllama.LoadProgress]()
    async with erllama.Runtime(home=tmp_path / "home") as runtime:
        await runtime.load_model("m", {"model_path": parts[0]}, on_progress=seen.append)
    size = sum(part.stat().st_size for part in parts)
    assert {step.total for step in seen} == {size}
    assert {step.stage for step in seen if step.done == size} == {"hash", "weights"}


@pytest.mark.slow
async def test_a_file_that_is_replaced_after_it_was_hashed_poisons_nothing(tmp_path: Path) -> None:
    """The load fails; the next one is of the new file, and cold."""
    path, newer = tiny_gguf("dense", tmp_path), tmp_path / "newer.gguf"
    newer.write_bytes(path.read_bytes()[:-4] + bytes(4))

    class Swapping(LlamaBackend):
        def load(self, progress: Callable[[float], bool]) -> ModelFacts:
            newer.replace(path)
            return super().load(progress)

    (old, _) = await ask(tmp_path, config(path))
    async with runtime_at(tmp_path, backend_factory=Swapping) as runtime:
        with pytest.raises(erllama.ModelLoadError, match="changed while it was being loaded"):
            await runtime.load_model("m", config(path))
        assert engine_threads() == []
    (new, reply) = await ask(tmp_path, config(path))
    assert old.fingerprint != new.fingerprint
    assert reply.cache_hit_kind == "cold"


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_models_of_t5s_kind_are_refused_and_their_tokens_are_there(kind: Kind, tmp_path: Path) -> None:
    """llama.cpp would end the process at their first decode."""
    path = tiny_t5(kind, tmp_path)
    async with erllama.Runtime(home=tmp_path) as runtime:
        with pytest.raises(erllama.UnsupportedModel, match="T5"):
            await runtime.load_model("m", {"model_path": path})
        model = await runtime.load_model("m", {"model_path": path, "model_opts": {"vocab_only": True}})
        assert await model.detokenize(await model.tokenize("the cat")) == "the cat"
