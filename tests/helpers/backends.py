"""Backends on their own: what the suites that run over every backend and kind of memory share.

The fixtures `subject` and `backend` of `tests/engine/conftest.py` make them; these are the types, and the few
steps that most of the tests take.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from erllama_py.engine import make_backend
from erllama_py.engine.backend import Backend, DecodeStatus, MemoryKind, Slice
from erllama_py.options.model import ModelConfig
from erllama_py.options.sampling import Sampling
from helpers.tiny_gguf import WINDOW, Kind, tiny_gguf

GREEDY = Sampling(temperature=0.0)
MEMORY: dict[Kind, MemoryKind] = {"dense": "full", "window": "window", "recurrent": "recurrent", "hybrid": "hybrid"}

# For tests of the fixture `subject` that say nothing about the stub.
ON_LLAMA = pytest.mark.parametrize("subject", [f"llama-{kind}" for kind in MEMORY], indirect=True)

Make = Callable[..., Backend]
Subject = tuple[str, MemoryKind, Make]


def make_subject(
    name: str, kind: Kind, models: Path, model_opts: dict[str, Any] | None = None, **context: Any
) -> Backend:
    """A backend that is not loaded: `"llama"` with the tiny model of this kind, or the `"stub"` that acts like it."""
    sizes = {"n_ctx": 512, "n_batch": 512, "n_ubatch": 64, "n_threads": 1, "n_threads_batch": 1, "n_seq_max": 4}
    fields: dict[str, Any] = {"backend": name, "model_opts": model_opts or {}, "context_opts": sizes | context}
    if name == "stub":
        fields["stub"] = {"memory": MEMORY[kind], "n_swa": WINDOW if kind == "window" else 0}
    else:
        fields["model_path"] = str(tiny_gguf(kind, models))
    return make_backend("subject", msgspec.convert(fields, ModelConfig))


def write_on(backend: Backend, seq_id: int, position: int, count: int) -> list[int]:
    """`count` greedy tokens after a decode whose slice 0 had logits."""
    sampler = backend.sampler(GREEDY, [])
    tokens: list[int] = []
    for _ in range(count):
        tokens.append(sampler.sample(0))
        assert backend.decode([Slice(seq_id, position, (tokens[-1],), True)]) is DecodeStatus.DONE
        position += 1
    sampler.close()
    return tokens


def complete(backend: Backend, seq_id: int, prompt: list[int], cuts: tuple[int, ...] = (), count: int = 8) -> list[int]:
    """Prefill an empty sequence in slices that end at `cuts`, then write on."""
    start = 0
    for end in (*cuts, len(prompt)):
        assert backend.decode([Slice(seq_id, start, prompt[start:end], end == len(prompt))]) is DecodeStatus.DONE
        start = end
    return write_on(backend, seq_id, len(prompt), count)
