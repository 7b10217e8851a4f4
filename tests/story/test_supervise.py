"""The user's own loops under the tree."""

from __future__ import annotations

import anyio
import pytest
from helpers.runtime import stub_runtime, until

import erllama_py as erllama

pytestmark = pytest.mark.anyio


async def test_an_agent_loop_is_restarted_and_told_apart() -> None:
    """Returned, raised and stopped are three different ends."""
    runs: list[int] = []

    async def twice_then_return() -> str:
        runs.append(1)
        if len(runs) < 3:
            raise RuntimeError("try again")
        return "done"

    async def raises() -> None:
        raise RuntimeError("once")

    async with erllama.Runtime() as runtime:
        loop = await runtime.supervise("loop", twice_then_return, restart="transient")
        assert await loop.wait() == erllama.Returned("done")
        assert len(runs) == 3
        once = await runtime.supervise("once", raises, restart="temporary")
        ended = await once.wait()
        assert isinstance(ended, erllama.Raised)
        assert str(ended.error) == "once"
        forever = await runtime.supervise("forever", anyio.sleep_forever)
        assert "forever" in str(runtime.tree())
        await forever.stop()
        await forever.stop()
        assert await forever.wait() == erllama.Stopped()


async def test_a_loop_that_keeps_failing_is_given_up_alone() -> None:
    """The runtime and its models live on."""

    async def fails() -> None:
        raise RuntimeError("always")

    async with stub_runtime() as (runtime, model):
        limits = erllama.RestartLimits(intensity=2, period=60.0, backoff_first=0.0, backoff_max=0.0)
        loop = await runtime.supervise("loop", fails, limits=limits)
        ended = await loop.wait()
        assert isinstance(ended, erllama.Raised)
        assert "failed" in str(runtime.tree())
        assert (await model.complete("hello", response_tokens=1, temperature=0.0)).generated


async def test_a_loop_can_use_models_and_survives_their_crashes() -> None:
    """The whole point: an agent that asks again after `ModelCrashed`, supervised beside its model."""
    answers: list[str] = []
    crashes: list[str] = []

    async with stub_runtime(seconds_per_token=0.001) as (runtime, model):

        async def agent() -> None:
            while len(answers) < 3:
                try:
                    answers.append((await model.complete("hello", response_tokens=30, temperature=0.0)).reply)
                except erllama.ModelCrashed as crash:
                    crashes.append(crash.model_id)

        loop = await runtime.supervise("agent", agent, restart="transient")
        await until(lambda: model.phase == "generating")
        model.inject_fault("actor")
        assert await loop.wait() == erllama.Returned(None)
    assert len(set(answers)) == 1
    assert crashes == ["m"]


async def test_supervise_refuses_what_it_cannot_run() -> None:
    """A taken name, a bad name, something that is no function."""
    async with erllama.Runtime() as runtime:
        await runtime.supervise("loop", anyio.sleep_forever)
        for name, function in (("loop", anyio.sleep_forever), ("", anyio.sleep_forever), ("x", None)):
            with pytest.raises(erllama.InvalidOption):
                await runtime.supervise(name, function)  # type: ignore[arg-type]  # None on purpose
