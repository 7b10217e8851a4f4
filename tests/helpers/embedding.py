"""Models for the stories of embeddings: encoders, rankers and generating ones, on each backend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy

import erllama_py as erllama
from erllama_py.options.process import Isolation
from helpers.both_backends import loaded
from helpers.tiny_bert import tiny_bert

TEXTS = ["the cat sits outside", "a dog runs", "the dog sits", "cat"]


@asynccontextmanager
async def encoder(
    backend: str, folder: Path, *, ranks: bool = False, isolation: Isolation = "thread", **context: Any
) -> AsyncIterator[erllama.Model]:
    """An encoder that takes inputs of up to 64 tokens, and as many in a decode."""
    fields: Any = {"context_opts": {"n_ctx": 64, "n_batch": 64, "n_threads": 1, **context}, "isolation": isolation}
    if backend == "stub":
        fields |= {"backend": "stub", "stub": {"embeds_only": True, "ranks": ranks}}
    else:
        fields |= {"model_path": tiny_bert(folder, ranks=ranks)}
    async with erllama.Runtime() as runtime:
        yield await runtime.load_model("one", fields)


@asynccontextmanager
async def embedding(kind: str, folder: Path) -> AsyncIterator[erllama.Model]:
    """`"llama-encoder"`, `"stub-encoder"`, `"llama-dense"`, …"""
    backend, _, what = kind.partition("-")
    made = encoder(backend, folder) if what == "encoder" else loaded(backend, folder, what)  # type: ignore[arg-type]  # a kind of memory
    async with made as model:
        yield model


def close(one: Any, other: Any) -> bool:
    """Whether two arrays are the same but for rounding: llama.cpp adds in another order in other batches."""
    one, other = numpy.asarray(one), numpy.asarray(other)
    return one.shape == other.shape and numpy.allclose(one, other, atol=2e-3)
