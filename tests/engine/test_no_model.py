"""GGUF files that are no language models: each says what it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy
import pytest
from gguf import GGUFWriter
from helpers.tiny_gguf import KINDS, Kind, tiny_gguf

import erllama_py as erllama
from erllama_py.engine.llama.no_model import what_else

# Its name, architecture, `general.type`, `adapter.type`, a tensor, and what is said.
OTHERS: list[tuple[str, str | None, str | None, str | None, str, str]] = [
    ("mmproj", "clip", "mmproj", None, "v.patch_embd.weight", "a projector for images or audio"),
    ("old-mmproj", "clip", None, None, "v.patch_embd.weight", "a projector for images or audio"),
    (
        "lora",
        "llama",
        "adapter",
        "lora",
        "blk.0.attn_q.weight.lora_a",
        "^it is a LoRA adapter for .* 'llama'",
    ),
    ("old-lora", "llama", None, None, "blk.0.attn_q.weight.lora_a", "^it is a LoRA adapter"),
    ("vector", "controlvector", None, None, "direction.1", "a control vector"),
    ("new-vector", "llama", "adapter", "control_vector", "direction.1", "a control vector"),
    ("imatrix", None, "imatrix", None, "blk.0.attn_q.weight.in_sum2", "an importance matrix"),
    ("flux", "flux", "model", None, "double_blocks.0.img_attn.qkv.weight", "images or video .'flux'"),
    ("wan", "wan", None, None, "blocks.0.cross_attn.k.weight", "images or video"),
    ("whisper", "whisper", None, None, "encoder.conv1.weight", "turns speech into text"),
    ("kokoro", "kokoro", None, None, "decoder.weight", "turns text into speech"),
    ("vae", None, None, None, "decoder.conv_in.weight", "does not name its architecture: it may be a part"),
]


def written(path: Path, architecture: str | None, kind: str | None, adapter: str | None, tensor: str) -> Path:
    """A file with one tensor."""
    writer = GGUFWriter(path, architecture or "none")
    if architecture is None:
        for part in writer.kv_data:
            part.pop("general.architecture", None)
    if kind is not None:
        writer.add_string("general.type", kind)
    if adapter is not None:
        writer.add_string("adapter.type", adapter)
    writer.add_tensor(tensor, numpy.zeros((32, 32), numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(("name", "architecture", "kind", "adapter", "tensor", "said"), OTHERS, ids=lambda one: None)
def test_it_says_what_it_is(
    name: str, architecture: str | None, kind: str | None, adapter: str | None, tensor: str, said: str, tmp_path: Path
) -> None:
    """Before llama.cpp reads it; nothing is tried."""
    path = written(tmp_path / f"{name}.gguf", architecture, kind, adapter, tensor)
    with pytest.raises(erllama.UnsupportedModel) as refusal:
        erllama.inspect_model(path)
    assert re.search(said, refusal.value.problem)
    assert refusal.value.model_path == str(path)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_load_says_so_too(tmp_path: Path) -> None:
    """Whether it is tried first or not."""
    path = written(tmp_path / "mmproj.gguf", "clip", "mmproj", None, "v.patch_embd.weight")
    async with erllama.Runtime() as runtime:
        for probe in (True, False):
            config: Any = {"model_path": path, "probe": probe}
            with pytest.raises(erllama.UnsupportedModel, match="give the file of the model itself"):
                await runtime.load_model("m", config)


@pytest.mark.parametrize("kind", KINDS)
def test_models_are_models(kind: Kind, tmp_path: Path) -> None:
    """Also without a type."""
    assert erllama.inspect_model(tiny_gguf(kind, tmp_path), context_sizes=[], probe=False).can_generate
    assert what_else("model", "llama", None, ["blk.0.attn_q.weight"]) is None
