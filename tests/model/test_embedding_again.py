"""Calls for embeddings over crashes: of their embedder, and of their model."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from helpers.runtime import stub_runtime, until

from erllama_py.engine.stub_embedder import StubEmbedder

pytestmark = pytest.mark.anyio


async def test_a_decode_that_fails_is_computed_again_by_another_embedder() -> None:
    """Its call gets its vectors, and does not hear of it."""
    async with stub_runtime() as (_, model):
        expected = await model.embed("works")
    async with stub_runtime(fail_decode_after=1) as (_, model):
        await model.embed("works")
        assert ((await model.embed("works")).vector == expected.vector).all()
        assert (model.info.restarts, model.counters.embeddings_failed) == (0, 0)
        assert model.counters.continued == 1


async def test_calls_are_computed_again_when_their_model_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a whole: nothing of them was kept."""
    begun, let_go, compute = threading.Event(), threading.Event(), StubEmbedder.compute

    def held(self: StubEmbedder, parts: Any) -> Any:
        begun.set()
        while not let_go.wait(0.001) and not self._abort.is_set():
            pass
        return compute(self, parts)

    monkeypatch.setattr(StubEmbedder, "compute", held)
    async with stub_runtime() as (_, model):
        calls = [asyncio.create_task(model.embed("hello")) for _ in range(3)]
        await until(begun.is_set)
        model.inject_fault()
        await until(lambda: model.info.restarts == 1)
        let_go.set()
        done = await asyncio.gather(*calls)
        assert all((one.vector == done[0].vector).all() for one in done)
        assert model.counters.embeddings == 3
