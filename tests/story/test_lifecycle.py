"""Loading, unloading, crashing and coming back, with the stub backend."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

import erllama_py as erllama
from erllama_py.config import ModelConfig
from erllama_py.engine.backend import Backend
from erllama_py.engine.stub import StubBackend
from helpers.runtime import STUB, slow_stub, stub_runtime, until

pytestmark = pytest.mark.anyio


def engine_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("erllama-")]


# --- loading and unloading ---------------------------------------------------------------------------------


async def test_an_id_is_made_when_none_is_given() -> None:
    """`load_model(config)` makes ids that are free."""
    async with erllama.Runtime() as runtime:
        await runtime.load_model("model_2", STUB)
        ids = [(await runtime.load_model(STUB)).id for _ in range(2)]
        assert ids == ["model_1", "model_3"]


async def test_a_second_load_of_an_id_is_refused_also_while_it_loads() -> None:
    """The first one is not disturbed."""
    async with erllama.Runtime() as runtime, anyio.create_task_group() as group:
        group.start_soon(runtime.load_model, "m", {**STUB, "stub": {"load_seconds": 3600.0}})
        await until(lambda: bool(engine_threads()))
        with pytest.raises(erllama.AlreadyLoaded):
            await runtime.load_model("m", STUB)
        group.cancel_scope.cancel()
    async with stub_runtime() as (runtime, model):
        with pytest.raises(erllama.AlreadyLoaded):
            await runtime.load_model("m", STUB)
        assert (await model.complete("hello", response_tokens=1, temperature=0.0)).generated


async def test_a_cancelled_load_leaves_nothing() -> None:
    """No thread, no child, and the id is free."""
    async with erllama.Runtime() as runtime:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(runtime.load_model, "m", {**STUB, "stub": {"load_seconds": 3600.0}})
                await until(lambda: bool(engine_threads()))
                scope.cancel()
        assert engine_threads() == []
        assert runtime.list_models() == []
        assert (await runtime.load_model("m", STUB)).phase == "idle"


async def test_a_failed_load_raises_its_own_error_and_leaves_nothing() -> None:
    """It is not restarted; the caller has the error and the id is free."""
    async with erllama.Runtime() as runtime:
        with pytest.raises(erllama.ModelLoadError, match="told to fail"):
            await runtime.load_model("m", {**STUB, "stub": {"fail_load": True}})
        assert engine_threads() == []
        assert (await runtime.load_model("m", STUB)).phase == "idle"


async def test_unload_ends_open_calls_and_frees_the_thread() -> None:
    """Open calls get `ModelNotLoaded`, later ones too, and the id can be loaded again."""
    async with slow_stub() as (runtime, model, gate):
        errors: list[Exception] = []

        async def ask() -> None:
            try:
                await model.complete("hello")
            except erllama.ErllamaError as error:
                errors.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            group.start_soon(ask)
            await until(lambda: model.queue_depth == 2)
            await runtime.unload(model)
        assert [type(error) for error in errors] == [erllama.ModelNotLoaded] * 2
        assert engine_threads() == []
        with pytest.raises(erllama.ModelNotLoaded):
            await model.complete("hello")
        with pytest.raises(erllama.ModelNotLoaded):
            await runtime.complete("slow", "hello")
        with pytest.raises(erllama.ModelNotLoaded):
            await runtime.unload(model)
        gate.set()
        again = await runtime.load_model("slow", STUB)
        assert (await again.complete("hello", response_tokens=1, temperature=0.0)).generated


async def test_unloading_twice_at_once_is_one_unload() -> None:
    """Both return when it is gone."""
    async with stub_runtime() as (runtime, model):
        async with anyio.create_task_group() as group:
            group.start_soon(runtime.unload, model)
            group.start_soon(runtime.unload, model)
        assert runtime.list_models() == []


async def test_after_the_runtime_closed_everything_says_so() -> None:
    """Handles, ids and the tree: `RuntimeClosed`."""
    async with stub_runtime() as (runtime, model):
        pass
    for call in (
        lambda: model.complete("hello"),
        lambda: runtime.complete("m", "hi"),
        lambda: runtime.load_model("n", STUB),
        lambda: runtime.unload(model),
        lambda: runtime.supervise("loop", anyio.sleep_forever),
    ):
        with pytest.raises(erllama.RuntimeClosed):
            await call()
    with pytest.raises(erllama.RuntimeClosed):
        runtime.list_models()
    assert engine_threads() == []


async def test_a_runtime_that_closes_while_a_model_loads_aborts_the_load() -> None:
    """The loading caller gets `RuntimeClosed`; no thread is left."""
    errors: list[Exception] = []

    async def load(runtime: erllama.Runtime) -> None:
        try:
            await runtime.load_model("m", {**STUB, "stub": {"load_seconds": 3600.0}})
        except erllama.ErllamaError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        async with erllama.Runtime() as runtime:
            group.start_soon(load, runtime)
            await until(lambda: bool(engine_threads()))
    assert [type(error) for error in errors] == [erllama.RuntimeClosed]
    assert engine_threads() == []


async def test_a_body_that_raises_is_seen_as_it_is() -> None:
    """The same exception object, no group around it, and everything is closed."""
    mine = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with stub_runtime():
            raise mine
    assert caught.value is mine
    assert engine_threads() == []


async def test_loads_report_progress() -> None:
    """Weights go from their beginning to their end."""
    seen: list[erllama.LoadProgress] = []
    async with erllama.Runtime() as runtime:
        await runtime.load_model("m", STUB, on_progress=seen.append)
    assert {step.stage for step in seen} == {"weights"}


async def test_a_progress_callback_that_raises_does_not_end_the_load() -> None:
    """The caller's mistake is logged; the model is there."""

    def broken(_: erllama.LoadProgress) -> None:
        raise RuntimeError("mine")

    async with erllama.Runtime() as runtime:
        assert (await runtime.load_model("m", STUB, on_progress=broken)).phase == "idle"


async def test_a_tokenizer_only_model_tokenizes_and_refuses_to_generate() -> None:
    """`vocab_only` gives a clear error instead of a crash."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {**STUB, "model_opts": {"vocab_only": True}})
        assert await model.detokenize(await model.tokenize("hello")) == "hello"
        with pytest.raises(erllama.TokenizerOnly):
            await model.complete("hello")


BAD_LOADS: list[tuple[str, Any, type[erllama.ErllamaError]]] = [
    ("no mapping", 7, erllama.InvalidOption),
    ("unknown option", {**STUB, "n_ctxx": 1}, erllama.InvalidOption),
    ("unknown nested option", {**STUB, "context_opts": {"n_cxt": 1}}, erllama.InvalidOption),
    ("mistyped option", {**STUB, "context_opts": {"n_ctx": "2048"}}, erllama.InvalidOption),
    ("n_ctx 0", {**STUB, "context_opts": {"n_ctx": 0}}, erllama.InvalidOption),
    ("n_batch 0", {**STUB, "context_opts": {"n_batch": 0}}, erllama.InvalidOption),
    ("n_ctx past memory", {**STUB, "context_opts": {"n_ctx": (1 << 31) - 1, "n_batch": 8}}, erllama.ErllamaError),
    ("no such backend", {"backend": "none"}, erllama.InvalidOption),
    ("no path", {}, erllama.InvalidOption),
    ("tier that does not run", {**STUB, "tier_srv": "my_disk", "tier": "disk"}, erllama.TierNotFound),
    ("tier of another kind", {**STUB, "tier_srv": "ram", "tier": "disk"}, erllama.TierMismatch),
    ("quant that the file has not", {**STUB, "quant_type": "q4_k_m"}, erllama.QuantMismatch),
    ("trust without a fingerprint", {**STUB, "fingerprint_mode": "fast_unsafe"}, erllama.InvalidOption),
    ("missing file", {"model_path": "/nowhere/a.gguf"}, erllama.ModelFileNotFound),
]


@pytest.mark.parametrize(("config", "error"), [pytest.param(*row[1:], id=row[0]) for row in BAD_LOADS if row[0] != "n_ctx past memory"])
async def test_a_bad_configuration_is_refused_and_disturbs_nobody(config: Any, error: type[Exception]) -> None:
    """Its own error class, before anything is loaded; the other model goes on and the id is free."""
    async with stub_runtime() as (runtime, model):
        with pytest.raises(error):
            await runtime.load_model("other", config)
        assert (await model.complete("hello", response_tokens=1, temperature=0.0)).generated
        assert (await runtime.load_model("other", STUB)).phase == "idle"
        assert len(engine_threads()) == 2


# --- crashing and coming back --------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["actor", "thread", "decode"])
async def test_a_fault_fails_open_calls_and_the_model_comes_back(where: Any) -> None:
    """Open calls get `ModelCrashed` with its cause; the next call waits for the restart and is answered."""
    async with stub_runtime(seconds_per_token=0.001) as (runtime, model):
        before = await model.complete("hello", response_tokens=4, temperature=0.0)
        with pytest.raises(erllama.ModelCrashed) as caught:
            async with model.stream("hello again", response_tokens=1000, temperature=0.0) as events:
                async for _ in events:
                    model.inject_fault(where)
        assert caught.value.__cause__ is not None
        assert not caught.value.gave_up
        after = await model.complete("hello", response_tokens=4, temperature=0.0)
        assert after.reply == before.reply
        assert after.cache_hit_kind == "cold"
        assert model.info.restarts == 1
        assert len(engine_threads()) == 1
        assert "1 restart," in str(runtime.tree())


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


async def test_a_model_that_crashes_too_often_is_given_up_and_the_rest_lives() -> None:
    """Calls get `ModelCrashed` with `gave_up`, the tree shows it failed, the others answer; unload clears it."""
    async with stub_runtime() as (runtime, model):
        bad = await runtime.load_model("bad", {**STUB, "stub": {"fail_decode_after": 0}})
        with pytest.raises(erllama.ModelCrashed):
            while True:
                try:
                    await bad.complete("hello")
                except erllama.ModelCrashed as crash:
                    if crash.gave_up:
                        raise
        assert bad.phase == "failed"
        assert "failed" in str(runtime.tree())
        assert (await model.complete("hello", response_tokens=1, temperature=0.0)).generated
        await runtime.unload("bad")
        assert "bad" not in str(runtime.tree())
        assert (await (await runtime.load_model("bad", STUB)).complete("hello", response_tokens=1, temperature=0.0)).generated


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
    monkeypatch.setattr("erllama_py.tree.ENGINE_STOP_SECONDS", 0.0)
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
    monkeypatch.setattr("erllama_py.tree.ENGINE_STOP_SECONDS", 0.0)
    monkeypatch.setattr("erllama_py.tree.MODEL_STOP_SECONDS", 0.01)
    made: list[StubBackend] = []

    def make(model_id: str, config: ModelConfig) -> Backend:
        made.append(StubBackend(model_id, config))
        return made[-1]

    async with erllama.Runtime(backend_factory=make) as runtime:
        model = await runtime.load_model("m", {**STUB, "stub": {"hang_decode_after": 0}})
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                with pytest.raises(erllama.ModelNotLoaded):
                    await model.complete("hello")

            group.start_soon(ask)
            await until(lambda: made[0].hung.is_set())
            with pytest.raises(erllama.ModelStuck):
                await runtime.unload(model)
        with pytest.raises(erllama.AlreadyLoaded):
            await runtime.load_model("m", STUB)
    made[0].release.set()


# --- the user's own loops ----------------------------------------------------------------------------------------


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


# --- nothing is left -----------------------------------------------------------------------------------------------


async def test_a_closed_runtime_is_garbage() -> None:
    """No task, thread or registry keeps a closed runtime and its models alive."""
    import weakref

    async with stub_runtime() as (runtime, model):
        await model.complete("hello", response_tokens=2, temperature=0.0)
        gone = weakref.ref(runtime._names)
    del runtime, model
    await anyio.lowlevel.checkpoint()
    gc.collect()
    assert gone() is None


async def test_the_home_folder_holds_the_remembered_fingerprints(tmp_path: Path) -> None:
    """`Runtime(home=…)` decides where; a stub has no file and leaves nothing there."""
    async with erllama.Runtime(home=tmp_path) as runtime:
        await runtime.load_model("m", STUB)
    assert list(tmp_path.rglob("*.json")) == []
