"""Documents ranked by a model whose engine has a process of its own, undisturbed and with a crash in the middle."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.embedding import encoder
from helpers.runtime import engine_threads

import erllama_py as erllama
from erllama_py.engine.embedding import Part
from erllama_py.engine.process.embedder import RemoteEmbedder

pytestmark = pytest.mark.anyio

QUERY = "where is the cat"
DOCUMENTS = ["a dog runs", "the cat sits outside", "the", "the cat sits outside", "a dog sits outside."] * 2
DECODES = 3  # that they take at least: a decode has 64 tokens


def told(ranking: erllama.Ranking) -> list[tuple[int, float]]:
    """The order, and what each is worth."""
    return [(one.index, round(one.score, 5)) for one in ranking]


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the decodes that a process was asked for. In the last but one of the first ranking, and again in that
    after the list was emptied, it is killed."""
    begun: list[int] = []
    compute = RemoteEmbedder.compute

    def computed(embedder: RemoteEmbedder, parts: Sequence[Part]) -> Any:
        begun.append(sum(len(part.tokens) for part in parts))
        if len(begun) == DECODES - 1:
            os.kill(embedder._child.process.pid or 0, signal.SIGKILL)
        return compute(embedder, parts)

    monkeypatch.setattr(RemoteEmbedder, "compute", computed)
    return begun


@pytest.mark.parametrize("backend", ["llama", "stub"])
async def test_a_ranking_in_a_process_is_that_of_a_thread(backend: str, tmp_path: Path) -> None:
    """By the model's own head; again in the same process."""
    async with encoder(backend, tmp_path, ranks=True) as model:
        here = told(await model.rerank(QUERY, DOCUMENTS))
    async with encoder(backend, tmp_path, ranks=True, isolation="process") as model:
        assert model.info.pid != os.getpid()
        assert [told(await model.rerank(QUERY, DOCUMENTS)) for _ in range(2)] == [here, here]
        assert model.info.restarts == 0


@pytest.mark.parametrize("backend", ["llama", "stub"])
async def test_a_ranking_goes_on_after_a_crash_in_its_middle(backend: str, tmp_path: Path, decodes: list[int]) -> None:
    """It is computed again as a whole, and is the same; one that is to fail says what ended the process."""
    async with encoder(backend, tmp_path, ranks=True) as model:
        here = told(await model.rerank(QUERY, DOCUMENTS))
    async with encoder(backend, tmp_path, ranks=True, isolation="process") as model:
        assert told(await model.rerank(QUERY, DOCUMENTS)) == here
        assert (model.info.restarts, model.counters.continued) == (1, 1)
        first, whole = decodes[: DECODES - 1], decodes[DECODES - 1 :]
        assert len(whole) >= DECODES
        assert whole[: len(first)] == first
        decodes.clear()
        with pytest.raises(erllama.ModelCrashed) as caught:
            await model.rerank(QUERY, DOCUMENTS, on_crash="fail")
        assert caught.value.report is not None
        assert caught.value.report.signal == "SIGKILL"
        assert told(await model.rerank(QUERY, DOCUMENTS)) == here
    assert engine_threads() == []
