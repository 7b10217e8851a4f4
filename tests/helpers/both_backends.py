"""One loaded model on each backend, for stories that both have to tell."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import erllama_py as erllama
from helpers.backends import MEMORY
from helpers.tiny_gguf import WINDOW, Kind, tiny_gguf

SIZES: dict[str, Any] = {"n_ctx": 512, "n_batch": 128, "n_ubatch": 64, "n_threads": 1, "n_seq_max": 4}
BACKENDS = ("llama", "stub")


@asynccontextmanager
async def loaded(
    backend: str, folder: Path, kind: Kind = "dense", context: dict[str, Any] | None = None, **config: Any
) -> AsyncIterator[erllama.Model]:
    """The model of a runtime of its own: a tiny one through llama.cpp, or the stub that acts like it."""
    fields: Any = {"context_opts": SIZES | (context or {}), **config}
    if backend == "stub":
        window = {"n_swa": WINDOW} if kind == "window" else {}
        fields |= {"backend": "stub", "stub": {"memory": MEMORY[kind], **window, **config.get("stub", {})}}
    else:
        fields |= {"model_path": tiny_gguf(kind, folder)}
    async with erllama.Runtime() as runtime:
        yield await runtime.load_model("one", fields)
