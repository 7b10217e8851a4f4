"""Memory for the first copies is made ready in the first load of a model, and in none that requests wait for."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.runtime import STUB, until

import erllama_py as erllama
from erllama_py.engine.process.engine import EngineProcess
from erllama_py.engine.thread import EngineThread

pytestmark = pytest.mark.anyio


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_buffers_are_warmed_in_the_first_load_alone(monkeypatch: pytest.MonkeyPatch, isolation: str) -> None:
    """After a crash the first tokens come before that; the copies that follow make memory for themselves."""
    warmed = list[int]()

    def note(engine: type[Any]) -> None:
        warm = engine.warm

        async def noted(self: Any, count: int, *given: Any) -> None:
            warmed.append(count)
            await warm(self, count, *given)

        monkeypatch.setattr(engine, "warm", noted)

    note(EngineThread)
    note(EngineProcess)
    config: Any = {**STUB, "isolation": isolation}
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", config)
        assert len(warmed) == 1
        model.inject_fault("thread")
        await until(lambda: model.info.restarts == 1 and model.info.phase == "idle")
        await model.complete("hello", response_tokens=4, temperature=0.0)
        assert len(warmed) == 1
        await runtime.unload("m")
        await runtime.load_model("m", config)
        assert len(warmed) == 2
