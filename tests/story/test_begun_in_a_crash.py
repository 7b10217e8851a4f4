"""A crash while something is being begun over a model's weights: a second context, or one for vectors."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from helpers.storm import GUARD_SECONDS, TEXTS, config

import erllama_py as erllama
from erllama_py.engine.process.child import Child

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.either_loop]

CALLS: dict[str, Callable[[erllama.Model], Awaitable[object]]] = {
    "a reproducible request": lambda model: model.complete("hello", response_tokens=4, reproducible=True),
    "vectors": lambda model: model.embed(TEXTS),
}
BEGINS = {"a reproducible request": "start_engine", "vectors": "start_embedder"}


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_whose_context_is_not_there_yet_goes_on(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends in the moment in which it was told to make one: the call waits for the next."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("a", config("a", tmp_path, isolation="process"))
        begin, pids = getattr(Child, BEGINS[call]), [model.info.pid]

        def begun(child: Child, *args: Any) -> Any:
            found = begin(child, *args)
            if (pid := child.process.pid) in pids:
                pids.clear()
                os.kill(pid or 0, signal.SIGSEGV)
            return found

        monkeypatch.setattr(Child, BEGINS[call], begun)
        with anyio.fail_after(GUARD_SECONDS):
            assert await CALLS[call](model)
        assert pids == []
        assert model.info.restarts == 1
