"""Loads that can have no process: the reason is told, and the model's id is free at once."""

from __future__ import annotations

from typing import Any

import pytest

import erllama_py as erllama
from erllama_py.engine.children import spawn

pytestmark = [pytest.mark.anyio, pytest.mark.either_loop]
OWN: Any = {"backend": "stub", "isolation": "process"}


async def test_cpus_that_are_not_ours_are_refused() -> None:
    """As an option. There was no process, and nothing is waited for."""
    config: Any = OWN | {"process_opts": {"cpus": [4000]}}
    async with erllama.Runtime() as runtime:
        with pytest.raises(erllama.InvalidOption, match="may not use CPU 4000"):
            await runtime.load_model("m", config)
        await runtime.load_model("m", {"backend": "stub"})


async def test_without_an_interpreter_the_load_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a frozen application."""

    def find_python() -> str:
        raise spawn.CannotSpawn("there is no interpreter")

    monkeypatch.setattr(spawn, "find_python", find_python)
    async with erllama.Runtime() as runtime:
        with pytest.raises(erllama.ModelLoadError, match="there is no interpreter"):
            await runtime.load_model("m", OWN)
        await runtime.load_model("m", {"backend": "stub"})
