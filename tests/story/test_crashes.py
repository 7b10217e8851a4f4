"""Faults on purpose, with the stub backend: which calls fail, and what is restarted."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest
from helpers.runtime import STUB, engine_threads, stub_runtime, until

import erllama_py as erllama
from erllama_py.engine.backend import Backend, BackendFailure
from erllama_py.engine.jobs import DrillFault
from erllama_py.engine.stub import StubBackend
from erllama_py.options.model import ModelConfig
from erllama_py.options.sampling import Sampling

pytestmark = pytest.mark.anyio


CAUSES = {"actor": DrillFault, "thread": DrillFault, "decode": BackendFailure}


@pytest.mark.slow
@pytest.mark.parametrize("where", CAUSES)
async def test_a_fault_fails_open_calls_and_the_model_comes_back(where: Any) -> None:
    """Open calls get `ModelCrashed` with its cause; the next call waits for the restart and is answered."""
    async with stub_runtime(seconds_per_token=0.001) as (runtime, model):
        before = await model.complete("hello", response_tokens=4, temperature=0.0)
        stream = model.stream("hello again", response_tokens=1000, temperature=0.0)
        async with stream as events:
            await anext(events)
            model.inject_fault(where)
            with pytest.raises(erllama.ModelCrashed) as caught:
                [event async for event in events]
        cause = caught.value.__cause__
        assert type(cause) is CAUSES[where]
        assert caught.value.problem == str(cause)
        assert not caught.value.gave_up
        after = await model.complete("hello", response_tokens=4, temperature=0.0)
        assert after.reply == before.reply
        assert after.cache_hit_kind == "cold"
        assert model.info.restarts == 1
        assert len(engine_threads()) == 1
        assert "1 restart," in str(runtime.tree())


@pytest.mark.parametrize(
    "error", [erllama.ContextOverflow("too long", 12, 16), erllama.InvalidOption("grammar", "not this one", "json")]
)
async def test_a_request_that_fails_in_the_engine_gets_the_error_with_all_its_facts(
    monkeypatch: pytest.MonkeyPatch, error: erllama.ErllamaError
) -> None:
    """Whatever its family; the model goes on."""
    sampler = StubBackend.sampler

    def refuse(self: StubBackend, sampling: Sampling, history: Any) -> Any:
        if sampling.seed == 1:
            raise error
        return sampler(self, sampling, history)

    monkeypatch.setattr(StubBackend, "sampler", refuse)
    async with stub_runtime() as (_, model):
        with pytest.raises(type(error)) as caught:
            await model.complete("hello", seed=1)
        assert caught.value.args == error.args
        assert (await model.complete("hello", response_tokens=1, seed=2)).generated
        assert model.info.restarts == 0


async def test_an_actor_whose_task_is_cancelled_from_outside_comes_back() -> None:
    """Code that cancels tasks it does not own ends the actor: open calls hear of it, and a new one is made."""
    async with stub_runtime() as (_, model):
        before = await model.complete("hello", response_tokens=4, temperature=0.0)
        for task in asyncio.all_tasks():
            if task.get_name() == "model:m":
                task.cancel()
        with pytest.raises(erllama.ModelCrashed, match="cancelled"):
            await model.complete("hello", response_tokens=4, temperature=0.0)
        after = await model.complete("hello", response_tokens=4, temperature=0.0)
        assert after.reply == before.reply
        await until(lambda: model.info.restarts == 1)


@pytest.mark.slow
async def test_a_crash_does_not_touch_the_other_model() -> None:
    """Its stream goes on, token by token, to the end it would have had."""
    async with stub_runtime(seconds_per_token=0.001) as (runtime, model):
        other = await runtime.load_model("other", STUB)
        alone = await model.complete("hello", response_tokens=60, temperature=0.0)
        await model.complete("something else", response_tokens=1, temperature=0.0)
        async with model.stream("hello", response_tokens=60, temperature=0.0) as events:
            async for event in events:
                if isinstance(event, erllama.TextDelta) and other.phase == "idle" and other.info.restarts == 0:
                    other.inject_fault("actor")
        assert isinstance(event, erllama.Done)
        assert event.completion.reply == alone.reply
        assert other.info.restarts == 1
        assert model.info.restarts == 0


@pytest.mark.slow
async def test_a_thread_that_comes_back_is_joined_before_the_restart_loads() -> None:
    """There are never two engines of one model: no two copies of the weights."""
    alive: list[int] = []
    most = 0

    class Counted(StubBackend):
        def load(self, progress: Any) -> Any:
            nonlocal most
            alive.append(1)
            most = max(most, len(alive))
            return super().load(progress)

        def close(self) -> None:
            super().close()
            if alive:
                alive.pop()

    async with erllama.Runtime(backend_factory=Counted) as runtime:
        model = await runtime.load_model("m", STUB)
        for _ in range(3):
            model.inject_fault("actor")
            await until(lambda: model.phase != "idle")
            assert (await model.complete("hello", response_tokens=1, temperature=0.0)).generated
    assert most == 1


@pytest.mark.slow
async def test_a_model_that_crashes_too_often_is_given_up_and_the_rest_lives() -> None:
    """Calls get `ModelCrashed` with `gave_up`, the tree shows it failed, the others answer; unload clears it."""
    async with stub_runtime() as (runtime, model):
        bad = await runtime.load_model("bad", {**STUB, "stub": {"fail_decode_after": 0}})
        crashes = 0
        while bad.phase != "failed":
            with pytest.raises(erllama.ModelCrashed) as caught:
                await bad.complete("hello")
            crashes += not caught.value.gave_up
        with pytest.raises(erllama.ModelCrashed) as caught:
            await bad.complete("hello")
        assert caught.value.gave_up
        assert 5 <= crashes <= 6
        assert bad.phase == "failed"
        assert "failed" in str(runtime.tree())
        assert (await model.complete("hello", response_tokens=1, temperature=0.0)).generated
        await runtime.unload("bad")
        assert "bad" not in str(runtime.tree())
        assert (
            await (await runtime.load_model("bad", STUB)).complete("hello", response_tokens=1, temperature=0.0)
        ).generated


@pytest.mark.slow
async def test_a_reload_that_fails_is_tried_again() -> None:
    """A crash on a restart's load counts towards the budget like any other."""
    loads = 0

    class Flaky(StubBackend):
        def load(self, progress: Any) -> Any:
            nonlocal loads
            loads += 1
            if loads == 2:
                raise erllama.ModelLoadError("stub", "not this time")
            return super().load(progress)

    async with erllama.Runtime(backend_factory=Flaky) as runtime:
        model = await runtime.load_model("m", STUB)
        model.inject_fault("actor")
        await until(lambda: model.phase != "idle")
        assert (await model.complete("hello", response_tokens=1, temperature=0.0)).generated
    assert loads == 3


async def test_a_hung_engine_is_marked_failed_and_not_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second copy of the weights beside the stuck one would be worse than a model that is down."""
    monkeypatch.setattr("erllama_py.tree.MODEL_STOP_SECONDS", 0.01)
    made: list[StubBackend] = []

    def make(model_id: str, config: ModelConfig) -> Backend:
        made.append(StubBackend(model_id, config))
        return made[-1]

    async with erllama.Runtime(backend_factory=make) as runtime:
        model = await runtime.load_model("m", {**STUB, "stub": {"hang_decode_after": 0}})
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                with pytest.raises(erllama.ModelCrashed):
                    await model.complete("hello")

            group.start_soon(ask)
            await until(lambda: made[0].hung.is_set())
            model.inject_fault("actor")
        await until(lambda: model.phase == "failed")
        assert len(made) == 1
        with pytest.raises(erllama.ModelCrashed) as caught:
            await model.complete("hello")
        assert caught.value.gave_up
        assert "failed" in str(runtime.tree())
        made[0].release.set()


async def test_unloading_a_hung_engine_says_that_its_memory_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ModelStuck`, and the id stays taken; the runtime can still be closed."""
    monkeypatch.setattr("erllama_py.tree.MODEL_STOP_SECONDS", 0.01)
    made: list[StubBackend] = []

    def make(model_id: str, config: ModelConfig) -> Backend:
        made.append(StubBackend(model_id, config))
        return made[-1]

    async with erllama.Runtime(backend_factory=make, policy={"evict_save_timeout_ms": 0}) as runtime:
        model = await runtime.load_model("m", {**STUB, "stub": {"hang_decode_after": 0}})
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                with pytest.raises(erllama.ModelNotLoaded):
                    await model.complete("hello")

            group.start_soon(ask)
            await until(lambda: made[0].hung.is_set())
            with pytest.raises(erllama.ModelStuck):
                await runtime.unload(model)
        with pytest.raises(erllama.ModelStuck):
            await runtime.load_model("m", STUB)
    made[0].release.set()
