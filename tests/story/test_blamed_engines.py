"""Of several engines in one process the one whose thread has crashed is blamed, and no request of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from helpers.runtime import until
from helpers.tiny_gguf import tiny_gguf

import erllama_py as erllama
from erllama_py.model.trials import Trials
from erllama_py.scheduler.messages import InjectFault

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CONTEXT: dict[str, Any] = {
    "n_ctx": 4096, "n_batch": 128, "n_ubatch": 32, "n_seq_max": 3, "n_threads": 1, "n_threads_batch": 1,
    "flash_attn": False, "type_k": "f32", "type_v": "f32",
}  # fmt: skip
REPLY: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}


def prompt(number: int) -> list[int]:
    return [65 + number, *range(70, 90)]


class Blamed:
    """Whom each crash was held against, as callers told of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sets: list[set[int]] = []
        crashed = Trials.crashed

        def noted(trials: Trials, crash: object, blamed: Collection[int]) -> None:
            self.sets.append(set(blamed))
            crashed(trials, crash, blamed)

        monkeypatch.setattr(Trials, "crashed", noted)


def generates(board: Any) -> bool:
    """Whether its engine is at a reply."""
    return board is not None and board.is_up and any(one.begun for one in board.last_state.placed.values())


async def test_an_assertion_in_the_companion_is_held_against_its_requests_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real one, while the model's own engine works at three replies, which go on as they were."""
    given: Any = {"model_path": tiny_gguf("dense", tmp_path), "isolation": "process", "context_opts": CONTEXT}
    same: dict[str, Any] = {"reproducible": True, "response_tokens": 200, **REPLY}
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", given)
        expected = [(await model.complete(prompt(n), response_tokens=400, **REPLY)).generated for n in range(3)]
        shared = (await model.complete(prompt(7), **same)).generated
    blamed = Blamed(monkeypatch)
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", given)
        board = model._board
        own = [asyncio.create_task(model.complete(prompt(n), response_tokens=400, **REPLY)) for n in range(3)]
        await until(lambda: model.counters.generated_tokens > 30)
        mine = set(board.calls)
        theirs = asyncio.create_task(model.complete(prompt(7), **same))
        await until(lambda: generates(board.companion))
        assert board.companion is not None
        assert board.companion.ref is not None
        board.companion.ref.cast(InjectFault("assertion"), urgent=True)
        await until(lambda: model.info.restarts == 1)
        report = model.info.last_crash
        assert report is not None
        assert report.signal == "SIGABRT"
        assert len(mine) == 3
        assert not mine & set(report.requests)
        assert (await theirs).generated == shared
        assert [(await one).generated for one in own] == expected
    assert blamed.sets
    assert {frozenset(one) for one in blamed.sets} == {frozenset(report.requests)}
    assert len(report.requests) == 1
