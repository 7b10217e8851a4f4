"""Faults on purpose, with the stub backend: which calls fail, and what is restarted."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

import anyio
import pytest
from helpers.coming_back import coming_back
from helpers.gated import gated
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
async def test_a_fault_fails_open_calls_that_are_to_fail_and_the_model_comes_back(where: Any) -> None:
    """They get `ModelCrashed` with its cause; the next call waits for the restart and is answered."""
    async with coming_back() as (runtime, model, _comings):
        before = await model.complete("hello", response_tokens=4, temperature=0.0)
        stream = model.stream("hello again", response_tokens=1000, temperature=0.0, ignore_eos=True, on_crash="fail")
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


async def test_a_drill_that_would_end_this_process_is_refused() -> None:
    """Native code that fails an assertion takes its process with it."""
    async with stub_runtime() as (_, model):
        with pytest.raises(erllama.InvalidOption, match="isolation='process'; expected one of 'actor', 'thread', 'de"):
            model.inject_fault("assertion")
        assert (await model.complete("hello", response_tokens=1)).generated


@pytest.mark.parametrize("by_id", [False, True])
@pytest.mark.parametrize(("where", "nearest"), [("thred", "thread"), (None, None), (["actor"], None)])
async def test_a_drill_of_an_unknown_kind_is_told_which_there_are(where: Any, nearest: str | None, by_id: bool) -> None:
    """And which of them may have been meant."""
    async with stub_runtime() as (runtime, model):
        with pytest.raises(erllama.InvalidOption) as caught:
            runtime.inject_fault("m", where) if by_id else model.inject_fault(where)
        known = "expected one of 'actor', 'assertion', 'decode', 'thread'"
        assert (caught.value.option, caught.value.nearest) == ("where", nearest)
        assert caught.value.problem == f"{known}, got {where!r}"


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
    """Code that cancels tasks it does not own ends the actor: open calls hear of it, or go on with a new one."""
    async with stub_runtime() as (_, model):
        before = await model.complete("hello", response_tokens=4, temperature=0.0)
        for task in asyncio.all_tasks():
            if task.get_name() == "model:m":
                task.cancel()
        with pytest.raises(erllama.ModelCrashed, match="cancelled"):
            await model.complete("hello", response_tokens=4, temperature=0.0, on_crash="fail")
        after = await model.complete("hello", response_tokens=4, temperature=0.0)
        assert after.reply == before.reply
        await until(lambda: model.info.restarts == 1)
        async with model.stream("hello", response_tokens=4, temperature=0.0) as events:
            for task in asyncio.all_tasks():
                if task.get_name() == "model:m":
                    task.cancel()
            last = [event async for event in events][-1]
        assert isinstance(last, erllama.Done)
        assert last.completion.reply == before.reply


@pytest.mark.slow
async def test_a_crash_does_not_touch_the_other_model() -> None:
    """Its stream goes on, token by token, to the end it would have had."""
    asked: dict[str, Any] = {"response_tokens": 60, "temperature": 0.0, "ignore_eos": True}
    async with gated() as (runtime, model, gate):
        other = await runtime.load_model("other", STUB)
        gate.gate.set()
        alone = await model.complete("hello", **asked)
        await model.complete("something else", response_tokens=1, temperature=0.0)
        gate.gate.clear()
        async with model.stream("hello", **asked) as events:
            await gate.shut(20)
            other.inject_fault("actor")
            await until(lambda: other.info.restarts == 1)
            gate.gate.set()
            last = [event async for event in events][-1]
        assert isinstance(last, erllama.Done)
        assert last.completion.reply == alone.reply
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
                await bad.complete("hello", on_crash="fail")
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


def restarts_in_the_tree(runtime: erllama.Runtime, name: str) -> int:
    """As the supervisor of models counts them."""
    (models,) = [node for node in runtime.tree().children if node.name == "models"]
    (child,) = [node for node in models.children if node.name == name]
    return child.restarts


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize("intensity", [0, 2])
async def test_a_model_has_as_many_restarts_as_the_tree_says(isolation: Any, intensity: int) -> None:
    """After each crash, also after the one that was too many, which is no restart."""
    async with erllama.Runtime() as runtime:
        limits: erllama.RestartOptsDict = {"intensity": intensity, "backoff_max": 0.0}
        model = await runtime.load_model("m", {"backend": "stub", "isolation": isolation, "restarts": limits})
        seen = []
        for _ in range(intensity + 1):
            model.inject_fault("actor")
            await until(lambda: model.phase != "idle")
            await until(lambda: model.phase in ("idle", "failed"))
            seen.append((model.info.restarts, restarts_in_the_tree(runtime, "model:m")))
        assert model.phase == "failed"
        assert seen == [(number, number) for number in (*range(1, intensity + 1), intensity)]
        assert model.counters.restarts == intensity


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_the_log_tells_a_crash_in_the_order_of_causes(isolation: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What has failed and why; that requests go on; that the model is restarted, and is back."""
    caplog.set_level(logging.INFO, "erllama_py")
    async with erllama.Runtime() as runtime:
        stub: erllama.StubOptsDict = {"seconds_per_token": 0.001}
        model = await runtime.load_model("m", {"backend": "stub", "isolation": isolation, "stub": stub})
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(partial(model.complete, "hello", response_tokens=1500, ignore_eos=True))
            await until(lambda: model.counters.active == 2)
            caplog.clear()
            model.inject_fault("decode")
            await until(lambda: any(record.getMessage().startswith("model loaded") for record in caplog.records))
            group.cancel_scope.cancel()
    told = [record.getMessage() for record in caplog.records if record.name == "erllama_py"]
    failed, *going_on, restarting, back = [one for one in told if "saved" not in one]
    assert failed.startswith("a child failed supervisor='models' child='model:m'")
    assert "error=" in failed
    assert [one.startswith("a request goes on after a crash") for one in going_on] == [True, True]
    assert restarting.startswith("restarting a failed child supervisor='models' child='model:m'")
    assert back.startswith("model loaded")


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
