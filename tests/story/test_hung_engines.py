"""An engine that hangs: it is reported, it is never loaded a second time beside itself, and it delays no other call."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import anyio
import pytest
from helpers.runtime import STUB, engine_threads, until

import erllama_py as erllama
from erllama_py.engine import pace
from erllama_py.engine.backend import ModelFacts
from erllama_py.engine.stub import StubBackend
from erllama_py.model import actor
from erllama_py.options.model import ModelConfig

pytestmark = pytest.mark.anyio

HANGS: erllama.ModelConfigDict = {**STUB, "stub": {"hang_decode_after": 0}, "policy": {"evict_save_timeout_ms": 0}}


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines are abandoned after a short deadline."""
    monkeypatch.setattr("erllama_py.tree.MODEL_STOP_SECONDS", 0.01)


class Engines:
    """The backends of one runtime. `let_go` lets those that hang go on."""

    def __init__(self) -> None:
        self.made: list[StubBackend] = []
        self.runtime = AsyncExitStack()  # it is closed once, by whoever comes first

    def make(self, model_id: str, config: ModelConfig) -> StubBackend:
        self.made.append(StubBackend(model_id, config))
        return self.made[-1]

    @property
    def first(self) -> StubBackend:
        return self.made[0]

    def let_go(self) -> None:
        for backend in self.made:
            backend.release.set()


@asynccontextmanager
async def engines() -> AsyncIterator[tuple[erllama.Runtime, Engines]]:
    """A runtime whose engines end with it, be they hung or not."""
    made = Engines()
    try:
        async with made.runtime:
            yield await made.runtime.enter_async_context(erllama.Runtime(backend_factory=made.make)), made
    finally:
        made.let_go()
        await until(lambda: engine_threads() == [])


@asynccontextmanager
async def asking(model: erllama.Model, engines: Engines, *, reproducible: bool = False) -> AsyncIterator[None]:
    """A call of a model whose decode then hangs; it ends as such a call may."""
    asked = asyncio.create_task(model.complete("hello", reproducible=reproducible))
    await until(lambda: any(one.hung.is_set() for one in engines.made))
    yield
    with suppress(erllama.ErllamaError):
        await asked


@pytest.mark.parametrize("crashed", [False, True], ids=["unloaded", "crashed"])
async def test_its_id_stays_taken_until_its_thread_has_ended(crashed: bool) -> None:
    """However often it is unloaded; then the model can be loaded again. There is never a second copy of its weights."""
    async with engines() as (runtime, made):
        model = await runtime.load_model("m", HANGS)
        async with asking(model, made):
            if crashed:
                model.inject_fault("actor")
                await until(lambda: model.phase == "failed")
            for _ in range(3):
                with pytest.raises(erllama.ModelStuck):
                    await runtime.unload("m")
                with pytest.raises(erllama.ModelStuck):
                    await runtime.load_model("m", STUB)
                with pytest.raises(erllama.ModelNotLoaded):
                    await model.complete("hello")
            assert "failed" in str(runtime.tree())
            assert (model.phase, len(made.made)) == ("unloaded", 1)
            made.let_go()
        await until(lambda: engine_threads() == [])
        again = await loaded_as_soon_as_it_can_be(runtime)
        assert (await again.complete("hello", response_tokens=2, temperature=0.0)).generated
        with pytest.raises(erllama.ModelNotLoaded):
            await runtime.unload(model)
        assert runtime.list_models()[0].phase == "idle"


async def loaded_as_soon_as_it_can_be(runtime: erllama.Runtime) -> erllama.Model:
    """The thread has ended; its actor hears of it in one of the next turns of the loop."""
    with anyio.fail_after(20):
        while True:
            try:
                return await runtime.load_model("m", STUB)
            except erllama.ModelStuck:
                await anyio.lowlevel.checkpoint()


async def test_after_a_second_context_that_hung_the_id_can_be_used_as_before() -> None:
    """Its thread has ended, and the model is loaded again: the next reproducible request makes another."""
    async with engines() as (runtime, made):
        model = await runtime.load_model("m", HANGS)
        async with asking(model, made, reproducible=True):
            with pytest.raises(erllama.ModelStuck):
                await runtime.unload("m")
            made.let_go()
        again = await loaded_as_soon_as_it_can_be(runtime)
        assert (await again.complete("hello", response_tokens=2, reproducible=True)).generated


async def test_one_that_has_ended_after_all_is_unloaded_as_any_other() -> None:
    """It was crashed and abandoned, and not unloaded meanwhile."""
    async with engines() as (runtime, made):
        model = await runtime.load_model("m", HANGS)
        async with asking(model, made):
            model.inject_fault("actor")
            await until(lambda: model.phase == "failed")
            with pytest.raises(erllama.ModelCrashed) as caught:
                await model.complete("hello")
            assert caught.value.gave_up
            with pytest.raises(erllama.AlreadyLoaded):
                await runtime.load_model("m", STUB)
            made.let_go()
            await until(lambda: engine_threads() == [])
        await until(lambda: all(task.get_name() != "model:m" for task in asyncio.all_tasks()))
        await runtime.unload("m")
        assert (await runtime.load_model("m", STUB)).phase == "idle"


async def test_a_load_that_hangs_keeps_the_id_when_it_is_cancelled() -> None:
    """The memory that it has taken so far is not free either."""
    begun, over = threading.Event(), threading.Event()

    class Hung(StubBackend):
        def load(self, progress: Callable[[float], bool]) -> ModelFacts:
            begun.set()
            over.wait()
            return super().load(progress)

    async with erllama.Runtime(backend_factory=Hung) as runtime:
        loading = asyncio.create_task(runtime.load_model("m", STUB))
        await until(begun.is_set)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        with pytest.raises(erllama.ModelStuck):
            await runtime.load_model("m", STUB)
        over.set()
        assert (await loaded_as_soon_as_it_can_be(runtime)).phase == "idle"


async def test_its_id_stays_taken_though_its_supervisor_is_another_one() -> None:
    """The supervisor of the models was cancelled from outside, and came back without a child of that name."""
    async with engines() as (runtime, made):
        model = await runtime.load_model("m", HANGS)
        async with asking(model, made):
            next(task for task in asyncio.all_tasks() if task.get_name() == "models").cancel()
            await until(
                lambda: "models (dynamic supervisor) running" in str(runtime.tree()) and model.phase == "failed"
            )
            with pytest.raises(erllama.ModelStuck):
                await runtime.unload("m")
            with pytest.raises(erllama.ModelStuck):
                await runtime.load_model("m", STUB)
            made.let_go()
        assert (await loaded_as_soon_as_it_can_be(runtime)).phase == "idle"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any decode takes too long, and that is seen at once."""
    monkeypatch.setattr(pace, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(pace, "FIRST_SECONDS_PER_TOKEN", 0.0)
    monkeypatch.setattr(actor, "WATCH_SECONDS", 0.0)


@pytest.mark.usefixtures("impatient")
async def test_a_decode_that_hangs_is_reported_until_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    """In the log once, in the phase and in the tree; the request goes on as if nothing had been."""
    async with engines() as (runtime, made):
        model = await runtime.load_model("m", HANGS)
        with caplog.at_level(logging.INFO, logger="erllama_py"):
            asked = asyncio.create_task(model.complete("hello", response_tokens=2, temperature=0.0))
            await until(lambda: model.phase == "hanging")
            assert model.info.phase == "hanging"
            assert "a decode hangs for" in str(runtime.tree())
            made.let_go()
            assert len((await asked).generated) == 2
            await until(lambda: model.phase == "idle")
        assert "hangs" not in str(runtime.tree())
        said = [(record.levelname, record.getMessage().split(" model=")[0]) for record in caplog.records]
        assert [(level, text) for level, text in said if "decode" in text] == [
            ("WARNING", "a decode takes far longer than those before it"),
            ("INFO", "the decode that took far longer than those before it has ended"),
        ]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("reproducible", [False, True], ids=["its own", "its second context"])
@pytest.mark.parametrize("end", ["unload", "close"])
async def test_an_engine_that_is_known_to_hang_is_asked_for_no_save(end: str, reproducible: bool) -> None:
    """No call waits for what will not come: an unload or the runtime's end is over when the engine is abandoned."""
    async with engines() as (runtime, made):
        model = await runtime.load_model("m", {**HANGS, "policy": {"evict_save_timeout_ms": 10**9}})
        async with asking(model, made, reproducible=reproducible):
            await until(lambda: model.phase == "hanging")
            if end == "unload":
                with pytest.raises(erllama.ModelStuck):
                    await runtime.unload("m")
            else:
                await made.runtime.aclose()
                with pytest.raises(erllama.RuntimeClosed):
                    await model.complete("hello")


@pytest.mark.slow
async def test_a_second_context_that_hangs_keeps_the_weights_and_so_the_id_of_its_model() -> None:
    """Its model goes on as long as it is loaded. Given back, it is stuck, and so is the model when it is unloaded."""
    async with engines() as (runtime, made):
        config: erllama.ModelConfigDict = {**HANGS, "scheduler": {"reproducible_idle_ms": 1}}
        model = await runtime.load_model("m", config)
        async with model.stream("hello", reproducible=True) as events:
            await until(made.made[1].hung.is_set)
            events.cancel()
            (done,) = [event async for event in events]
        assert isinstance(done, erllama.Done)
        assert done.completion.finish_reason == "cancelled"
        await until(lambda: "reproducible:m (state machine) failed" in str(runtime.tree()))
        with pytest.raises(erllama.ModelStuck):
            await model.complete("hello", reproducible=True)
        assert (model.phase, len(made.made)) == ("idle", 2)
        with pytest.raises(erllama.ModelStuck):
            await model.unload()
        with pytest.raises(erllama.ModelStuck):
            await runtime.load_model("m", STUB)
        made.let_go()
        await until(lambda: engine_threads() == [])
        assert (await (await loaded_as_soon_as_it_can_be(runtime)).complete("hello", response_tokens=2)).generated
