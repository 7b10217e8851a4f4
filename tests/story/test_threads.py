"""What is reported of threads: chosen, and used."""

from __future__ import annotations

from typing import Unpack

import pytest

import erllama_py as erllama
from erllama_py.cpus import read_allowance
from erllama_py.model.board import ModelBoard

pytestmark = pytest.mark.anyio


def stub(**context: Unpack[erllama.ContextOptsDict]) -> erllama.ModelConfigDict:
    return {"backend": "stub", "context_opts": context}


async def test_a_model_tells_how_many_threads_it_may_use_and_why() -> None:
    """What the process may use, unless a number is given; the tree tells it too."""
    allowed = read_allowance()
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("auto", stub())
        assert (model.info.threads, model.info.threads_reason) == (allowed.threads, allowed.why)
        assert model.info.threads_used == allowed.threads
        assert model.info.config.context_opts.n_threads is None
        given = await runtime.load_model("given", stub(n_threads=3))
        assert (given.info.threads, given.info.threads_used) == (3, 3)
        assert given.info.threads_reason == "n_threads is given"
        assert "model:given (state machine) running" in str(runtime.tree())
        assert "3 of 3 threads" in str(runtime.tree())


async def test_the_number_that_its_engine_has_settled_on_is_reported() -> None:
    """In `info` and in the tree; a model that is down uses none."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("one", stub())
        board: ModelBoard = model._board
        board.use_threads(1)
        assert model.info.threads_used == 1
        assert f"1 of {model.info.threads} thread" in str(runtime.tree())
        await runtime.unload("one")
        assert "thread" not in str(runtime.tree())


async def test_a_restart_begins_with_all_threads() -> None:
    """A new engine begins with all that it may use."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("one", stub(n_threads=2))
        model._board.use_threads(1)
        model.inject_fault("thread")
        with pytest.raises(erllama.ModelCrashed):
            await model.complete("hello", on_crash="fail")
        await model.complete("hello", response_tokens=2)
        assert model.info.threads_used == 2
