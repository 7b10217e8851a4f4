"""The user's own loops under the tree."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import anyio
import pytest
from helpers.gated import gated
from helpers.runtime import stub_runtime, until

import erllama_py as erllama

pytestmark = pytest.mark.anyio


@pytest.mark.slow
async def test_an_agent_loop_is_restarted_by_how_it_ends() -> None:
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


@pytest.mark.slow
@pytest.mark.parametrize("on_crash", ["continue", "fail"])
async def test_a_loop_can_use_models_and_survives_their_crashes(on_crash: Any) -> None:
    """The whole point: an agent that does not hear of them, or asks again after `ModelCrashed`, supervised beside its
    model."""
    answers: list[str] = []
    crashes: list[str] = []

    async with gated() as (runtime, model, gate):

        async def agent() -> None:
            while len(answers) < 3:
                try:
                    done = await model.complete("hello", response_tokens=30, temperature=0.0, on_crash=on_crash)
                    answers.append(done.reply)
                except erllama.ModelCrashed as crash:
                    crashes.append(crash.model_id)

        loop = await runtime.supervise("agent", agent, restart="transient")
        await gate.shut(10)
        await until(lambda: model.phase == "generating")
        model.inject_fault("actor")
        await until(lambda: model.info.restarts == 1)
        gate.shut_after = None
        gate.gate.set()
        assert await loop.wait() == erllama.Returned(None)
    assert len(set(answers)) == 1
    assert crashes == (["m"] if on_crash == "fail" else [])


async def test_supervise_refuses_what_it_cannot_run() -> None:
    """A taken name, a bad name, something that is no function."""
    async with erllama.Runtime() as runtime:
        await runtime.supervise("loop", anyio.sleep_forever)
        for name, function in (("loop", anyio.sleep_forever), ("", anyio.sleep_forever), ("x", None)):
            with pytest.raises(erllama.InvalidOption) as refused:
                await runtime.supervise(name, function)  # type: ignore[arg-type]  # None on purpose
            assert refused.value.option == ("name" if function else "function")


async def test_a_loop_with_the_name_of_a_model_s_actor_does_the_model_no_harm() -> None:
    """Names do not matter: a failure is attributed to the function that failed."""

    async def fails() -> None:
        raise RuntimeError("always")

    async with stub_runtime() as (runtime, model):
        for name in ("model:m", "m", "cache", "tier:ram", "saver", "models", "runtime", "pressure"):
            loop = await runtime.supervise(name, fails, limits={"intensity": 0})
            ended = await loop.wait()
            assert isinstance(ended, erllama.Raised)
            assert isinstance(ended.error, erllama.RestartLimitReached)
            assert str(ended.error.__cause__) == "always"
        assert model.phase == "idle"
        assert (await model.complete("hello", response_tokens=1, temperature=0.0)).generated
        assert await runtime.cache.tiers()


async def test_a_stale_handle_does_not_act_on_its_successor() -> None:
    """`stop` and `wait` are about the function that this handle was given for."""
    async with erllama.Runtime() as runtime:
        first = await runtime.supervise("loop", anyio.sleep_forever)
        await first.stop()
        second = await runtime.supervise("loop", anyio.sleep_forever)
        await first.stop()
        assert await first.wait() == erllama.Stopped()
        assert str(runtime.tree()).count("loop (function) running") == 1
        await second.stop()
        assert "loop" not in str(runtime.tree())


async def test_a_loop_that_does_not_end_stays_in_the_tree_however_often_it_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each stop says so, as an error of ours; once it has ended, a stop takes it out."""
    monkeypatch.setattr("erllama_py.tree.USER_STOP_SECONDS", 0.001)
    let_go, began = anyio.Event(), anyio.Event()

    async def stubborn() -> None:
        began.set()
        while not let_go.is_set():
            with anyio.CancelScope(shield=True), contextlib.suppress(asyncio.CancelledError):
                await let_go.wait()

    async with erllama.Runtime() as runtime:
        loop = await runtime.supervise("loop", stubborn)
        await began.wait()
        for _ in range(2):
            with pytest.raises(erllama.SupervisedStuck, match="'loop' did not end within"):
                await loop.stop()
            assert "loop (function) failed" in str(runtime.tree())
        ended = await loop.wait()
        assert isinstance(ended, erllama.Raised)
        assert isinstance(ended.error, erllama.SupervisedStuck)
        let_go.set()
        await until(lambda: all(task.get_name() != "loop" for task in asyncio.all_tasks()))
        await loop.stop()
        assert "loop" not in str(runtime.tree())


async def test_a_permanent_loop_that_returns_at_once_is_reported_as_returned() -> None:
    """The error says that it returned, not that it failed."""

    async def returns() -> None:
        return

    async with erllama.Runtime() as runtime:
        loop = await runtime.supervise("loop", returns, limits=erllama.RestartLimits(intensity=0))
        ended = await loop.wait()
    assert isinstance(ended, erllama.Raised)
    assert isinstance(ended.error, erllama.RestartLimitReached)
    assert ended.error.returned
    assert "returned after 0 restarts" in str(ended.error)


@pytest.mark.parametrize(
    ("given", "option", "nearest"),
    [
        ({"restart": "permanant"}, "restart", "permanent"),
        ({"restart": None}, "restart", None),
        ({"limits": {"intensty": 3}}, "limits.intensty", "limits.intensity"),
        ({"limits": {"intensity": -1}}, "limits.intensity", None),
        ({"limits": {"period": 0}}, "limits.period", None),
        ({"limits": {"backoff_factor": 0.5}}, "limits.backoff_factor", None),
        ({"limits": {"jitter": "much"}}, "limits.jitter", None),
        ({"limits": 3}, "limits", None),
    ],
)
async def test_supervise_checks_its_options(given: dict[str, Any], option: str, nearest: str | None) -> None:
    """A mapping is taken for the limits, as elsewhere; what is unknown is answered with the nearest name."""
    async with erllama.Runtime() as runtime:
        with pytest.raises(erllama.InvalidOption) as refused:
            await runtime.supervise("loop", anyio.sleep_forever, **given)
        assert (refused.value.option, refused.value.nearest) == (option, nearest)
        assert "loop" not in str(runtime.tree())


async def test_temporary_loops_that_ended_do_not_pile_up_in_the_tree() -> None:
    """However they ended; the handle still knows how."""

    async def gives() -> int:
        return 7

    async def fails() -> None:
        raise RuntimeError("once")

    async with erllama.Runtime() as runtime:
        before = str(runtime.tree()).count("\n")
        for _ in range(20):
            gave = await runtime.supervise("gives", gives, restart="temporary")
            failed = await runtime.supervise("fails", fails, restart="temporary")
            assert await gave.wait() == erllama.Returned(7)
            assert isinstance(await failed.wait(), erllama.Raised)
        assert str(runtime.tree()).count("\n") == before
