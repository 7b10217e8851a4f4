"""`model.sequences`: what each sequence does, read without a message."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers.gated import arrived, gated
from helpers.runtime import stub_runtime, until

import erllama_py as erllama

pytestmark = pytest.mark.anyio


def doing(model: erllama.Model) -> list[str]:
    """What its sequences do, in their order."""
    return [one.doing for one in model.sequences]


async def test_a_sequence_is_free_then_at_work_then_kept() -> None:
    """With the request that is in it, the length of its prompt, and its cells."""
    two: Any = {"n_ctx": 512, "n_seq_max": 2}
    async with gated(context=two) as (_, model, gate):
        assert doing(model) == ["free", "free"]
        asked = asyncio.create_task(model.complete([1, 2, 3], response_tokens=2))
        await arrived(model, 1)
        await until(lambda: "prefilling" in doing(model))
        (busy,) = (one for one in model.sequences if one.doing != "free")
        assert busy.request_id is not None
        assert busy.prompt_tokens == 3
        assert busy.cells >= 3
        gate.gate.set()
        await asyncio.gather(asked)
        (kept,) = (one for one in model.sequences if one.doing != "free")
        assert (kept.doing, kept.request_id, kept.prompt_tokens, kept.in_session) == ("kept", None, 0, False)
        assert 3 <= kept.cells <= 5


async def test_a_sequence_generates_once_its_prompt_is_read_and_is_held_for_its_session() -> None:
    """Its first text has come by then; afterwards it is kept for the next turn."""
    async with stub_runtime(seconds_per_token=0.001) as (runtime, model):
        async with model.stream("hello", response_tokens=500, session_id="s", ignore_eos=True) as events:
            await anext(events)
            (busy,) = (one for one in model.sequences if one.request_id is not None)
            assert (busy.doing, busy.in_session, busy.request_id) == ("generating", True, events.request_id)
        await until(lambda: "kept" in doing(model))
        assert [one.in_session for one in model.sequences if one.doing == "kept"] == [True]
        assert runtime.model_sequences("m") == model.sequences


async def test_a_model_that_is_gone_has_no_sequences() -> None:
    """And asking for them raises nothing."""
    async with stub_runtime() as (_, model):
        await model.unload()
        assert model.sequences == ()
