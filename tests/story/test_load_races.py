"""Loads that meet an unload, another load, a cancellation or the end of the runtime: each gets its own error, no call
waits for ever, and no model is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
from helpers.checkpoints import Strike, at_each_checkpoint
from helpers.runtime import STUB, engine_threads, stub_runtime, until

import erllama_py as erllama
from erllama_py import tree
from erllama_py.engine.backend import BackendFailure, ModelFacts
from erllama_py.engine.stub import StubBackend
from erllama_py.options.model import ModelConfig

pytestmark = pytest.mark.anyio


class Doors:
    """Loads of a runtime wait here until they are let through; an abort ends them too."""

    def __init__(self) -> None:
        self.begun = 0
        self.error: Exception | None = None  # what a load comes to that is let through
        self._open = threading.Event()
        self.runtime = AsyncExitStack()  # it is closed once, by whoever comes first

    def let_through(self, error: Exception | None = None) -> None:
        self.error = error
        self._open.set()

    def make(self, model_id: str, config: ModelConfig) -> StubBackend:
        return Waiting(model_id, config, self)


class Waiting(StubBackend):
    def __init__(self, model_id: str, config: ModelConfig, doors: Doors) -> None:
        super().__init__(model_id, config)
        self._doors = doors

    def load(self, progress: Callable[[float], bool]) -> ModelFacts:
        self._doors.begun += 1
        while not self._doors._open.wait(0.001):
            if not progress(0.5):
                break
        if self._doors.error is not None:
            raise self._doors.error
        return super().load(progress)


@asynccontextmanager
async def loading() -> AsyncIterator[tuple[erllama.Runtime, asyncio.Task[erllama.Model], Doors]]:
    """A runtime in which the first load of `m` is under way."""
    doors = Doors()
    async with doors.runtime:
        runtime = await doors.runtime.enter_async_context(erllama.Runtime(backend_factory=doors.make))
        task = asyncio.create_task(runtime.load_model("m", STUB))
        await until(lambda: doors.begun == 1)
        yield runtime, task, doors
        doors.let_through()


CALLS: dict[str, Callable[[erllama.Runtime], Coroutine[Any, Any, Any]]] = {
    "complete": lambda runtime: runtime.complete("m", "hello"),
    "chat": lambda runtime: runtime.chat("m", [{"role": "user", "content": "hello"}]),
    "session": lambda runtime: runtime.session("m").chat("hello"),
    "tokenize": lambda runtime: runtime.tokenize("m", "hello"),
    "explain": lambda runtime: runtime.explain("m", "hello"),
    "evict": lambda runtime: runtime.evict("m"),
    "deadline": lambda runtime: runtime.complete("m", "hello", deadline=1e6),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("end", ["fails", "bug", "cancelled", "unloaded", "closed", "branch"])
async def test_a_call_made_during_a_first_load_ends_with_it(call: str, end: str) -> None:
    """With the error of a load that fails; that there is no model, or no runtime, where it was taken back."""
    async with loading() as (runtime, task, doors):
        asked = asyncio.create_task(CALLS[call](runtime))
        await asyncio.sleep(0)
        expected: type[erllama.ErllamaError] = erllama.ModelNotLoaded
        match end:
            case "fails":
                doors.let_through(erllama.InsufficientMemory("m.gguf", "too large", 12, 10))
                expected = erllama.InsufficientMemory
            case "bug":
                doors.let_through(ZeroDivisionError("of the backend's"))
                expected = erllama.ModelLoadError
            case "cancelled":
                task.cancel()
            case "unloaded":
                await runtime.unload("m")
            case "branch":  # cancelled from outside; the runtime goes on
                next(one for one in asyncio.all_tasks() if one.get_name() == "models").cancel()
            case "closed":
                await doors.runtime.aclose()
                expected = erllama.RuntimeClosed
        with pytest.raises(expected) as caught:
            await asked
        if end == "fails":
            assert caught.value.args == ("m.gguf", "too large", 12, 10)
        (loaded,) = await asyncio.gather(task, return_exceptions=True)
        assert type(loaded) is (asyncio.CancelledError if end == "cancelled" else expected)


async def test_what_a_backend_raises_when_it_is_made_is_a_load_error() -> None:
    """It comes from code of the application, or from an import that fails; what it was is the cause."""

    def broken(model_id: str, config: ModelConfig) -> StubBackend:
        raise ImportError("no such library")

    async with erllama.Runtime(backend_factory=broken) as runtime:
        with pytest.raises(erllama.ModelLoadError, match="no such library") as caught:
            await runtime.load_model("m", STUB)
        assert isinstance(caught.value.__cause__, ImportError)
        assert runtime.list_models() == []


async def test_what_needs_no_model_needs_none_that_is_loaded() -> None:
    """A deadline that passes during the first load, and the end of a session that never was."""
    async with loading() as (runtime, task, doors):
        done = await runtime.complete("m", "hello", deadline=0.01)
        assert (done.finish_reason, done.generated) == ("deadline", [])
        async with runtime.session("m") as session:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await session.chat("hello")
        await runtime.end_session("m", "s")
        doors.let_through()
        assert (await (await task).complete("hello", response_tokens=2, temperature=0.0)).generated


async def test_a_load_that_follows_an_unload_of_a_load_is_another_one() -> None:
    """Calls of the first get an error, and nothing of the second is affected."""
    async with loading() as (runtime, first, doors):
        await runtime.unload("m")
        second = asyncio.create_task(runtime.load_model("m", STUB))
        await until(lambda: doors.begun == 2)
        doors.let_through()
        model = await second
        with pytest.raises(erllama.ModelNotLoaded):
            await first
        assert [info.id for info in runtime.list_models()] == ["m"]
        assert (await runtime.complete("m", "hello", response_tokens=2, temperature=0.0)).generated
        await model.unload()
        assert runtime.list_models() == []


async def test_a_load_slips_in_as_soon_as_the_id_is_free() -> None:
    """Whoever tries at every turn of the loop gets the model, once, and it stays."""
    async with loading() as (runtime, first, doors):

        async def eager() -> erllama.Model:
            while True:
                with suppress(erllama.AlreadyLoaded):
                    return await runtime.load_model("m", STUB)
                await asyncio.sleep(0)

        second = asyncio.create_task(eager())
        await asyncio.sleep(0)
        await runtime.unload("m")
        doors.let_through()
        model = await second
        (gone,) = await asyncio.gather(first, return_exceptions=True)
        assert isinstance(gone, erllama.ModelNotLoaded)
        assert [board.model_id for board in runtime._models] == ["m"]
        assert (await model.complete("hello", response_tokens=2, temperature=0.0)).generated


async def test_a_cancellation_is_never_swallowed() -> None:
    """A load that is cancelled while the runtime closes is a load that was cancelled."""
    async with loading() as (_, task, doors):
        closing = asyncio.create_task(doors.runtime.aclose())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await closing


async def later(turns: int, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """A call that is made after so many turns of the loop."""
    for _ in range(turns):
        await asyncio.sleep(0)
    return await call()


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("turns", range(1, 13, 3))
@pytest.mark.parametrize("who", ["load", "unload", "close"])
async def test_loads_unloads_and_closes_cancelled_anywhere(who: str, turns: int) -> None:
    """Beside each other: whoever is struck, the others end with a model or an error of ours, and nothing is left."""

    async def scenario(strike: Strike) -> None:
        async with AsyncExitStack() as closing:
            runtime = await closing.enter_async_context(erllama.Runtime())
            calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
                "load": lambda: runtime.load_model("m", STUB),
                "complete": lambda: later(
                    1, lambda: runtime.complete("m", "hello", response_tokens=1, temperature=0.0)
                ),
                "unload": lambda: later(turns, lambda: runtime.unload("m")),
            }
            if who == "close":
                calls[who] = lambda: later(2 * turns, closing.aclose)
            tasks = {
                name: asyncio.create_task(strike.coroutine(call()) if name == who else call())
                for name, call in calls.items()
            }
            await asyncio.wait(tasks.values())
            for name, task in tasks.items():
                assert task.cancelled() == (strike.struck and name == who), name
                assert task.cancelled() or isinstance(task.exception(), erllama.ErllamaError | None)
            if who != "close":
                await loads_again(runtime)
        await until(lambda: engine_threads() == [])

    assert await at_each_checkpoint(scenario) > 0


async def loads_again(runtime: erllama.Runtime) -> None:
    """The id is that of a model, or free."""
    with suppress(erllama.ModelNotLoaded):
        await runtime.unload("m")
    await until(lambda: engine_threads() == [])
    model = await runtime.load_model("m", STUB)
    assert (await model.complete("hello", response_tokens=1, temperature=0.0)).generated


async def test_the_crash_that_is_one_too_many_says_so_to_those_whom_it_hits(monkeypatch: pytest.MonkeyPatch) -> None:
    """They need not ask again to hear that the model does not come back."""
    monkeypatch.setattr(tree, "MODEL_LIMITS", erllama.RestartLimits(intensity=2, backoff_first=0.0))
    async with stub_runtime(fail_decode_after=0) as (_, model):
        said: list[bool] = []
        while True not in said:
            calls = (model.complete("hello", on_crash="fail") for _ in range(3))
            for error in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(error, erllama.ModelCrashed)
                assert isinstance(error.__cause__, BackendFailure)
                said.append(error.gave_up)
        assert said == [False] * 6 + [True] * 3
