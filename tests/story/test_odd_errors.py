"""Errors that could end more than what raised them: without a text, of a process's end, of freeing memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from helpers.runtime import STUB, engine_threads, until

import erllama_py as erllama
from erllama_py.engine.stub import StubBackend

pytestmark = pytest.mark.anyio


class Unspeakable(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


NUMBER: Any = 5
WRONG = erllama.SamplerFailed(NUMBER)  # with what is no text
OWN = type("SamplerFailed", (erllama.SamplerFailed,), {})("no luck")  # an application's, of the same name
ODD: list[Any] = [Unspeakable, StopIteration, SystemExit, asyncio.CancelledError]


def backend(error: type[BaseException], *places: str) -> type[StubBackend]:
    """A stub that raises in `places`."""

    def fail(self: StubBackend, *args: object, **options: object) -> None:
        raise error

    return type("Odd", (StubBackend,), dict.fromkeys(places, fail))


@pytest.mark.parametrize("error", ODD)
@pytest.mark.parametrize("place", ["factory", "inspect", "load"])
async def test_whatever_a_load_raises_is_an_error_of_ours(place: str, error: type[BaseException]) -> None:
    """No call waits for it, the loop goes on, and its id is free."""
    broken = backend(error, "__init__" if place == "factory" else place)
    made: list[Callable[..., StubBackend]] = [StubBackend, broken, broken]
    async with erllama.Runtime(backend_factory=lambda *given: made.pop()(*given)) as runtime:
        for _ in range(2):
            with pytest.raises(erllama.ErllamaError):
                await runtime.load_model("m", STUB)
        assert (await runtime.load_model("m", STUB)).phase == "idle"


async def test_a_factory_that_gives_no_backend_is_told_so() -> None:
    """An async one is nearest."""

    async def waits(model_id: str, config: object) -> StubBackend:
        raise AssertionError

    wrongs: dict[str, Any] = {
        "plain one is expected": waits,
        "NoneType": lambda *given: None,
        "int; a Backend": lambda *given: 1,
    }
    for said, factory in wrongs.items():
        async with erllama.Runtime(backend_factory=factory) as runtime:
            with pytest.raises(erllama.ModelLoadError, match=said):
                await runtime.load_model("m", STUB)


@pytest.mark.slow
@pytest.mark.parametrize("error", ODD)
@pytest.mark.parametrize("place", ["decode", "sampler"])
async def test_whatever_an_engine_raises_reaches_its_callers(place: str, error: type[BaseException]) -> None:
    """Whether it is the model's end or only that of the request."""
    made: list[Callable[..., StubBackend]] = [StubBackend, backend(error, place)]
    async with erllama.Runtime(backend_factory=lambda *given: made.pop()(*given)) as runtime:
        model = await runtime.load_model("m", STUB)
        with pytest.raises((erllama.ModelCrashed, erllama.RequestError)) as caught:
            await model.complete("hello", response_tokens=2, on_crash="fail")
        assert str(caught.value)
        if isinstance(caught.value, erllama.ModelCrashed):
            assert (await model.complete("hello", response_tokens=2, temperature=0.0)).generated


@pytest.mark.parametrize("error", [WRONG, OWN])
async def test_an_error_of_a_request_that_is_not_as_ours_are_fails_only_that_request(error: Exception) -> None:
    """Its caller gets one of ours with its text, and the model goes on."""
    failing = [error]

    class Odd(StubBackend):
        def sampler(self, *args: Any, **options: Any) -> Any:
            if failing:
                raise failing.pop()
            return super().sampler(*args, **options)

    async with erllama.Runtime(backend_factory=Odd) as runtime:
        model = await runtime.load_model("m", STUB)
        with pytest.raises(erllama.RequestError, match=f"{type(error).__name__}: {error.args[0]}"):
            await model.complete("hello", response_tokens=2)
        assert (await model.complete("hello", response_tokens=2, temperature=0.0)).generated
        assert model.info.restarts == 0


@pytest.mark.slow
@pytest.mark.parametrize("place", ["close", "rest"])
async def test_an_engine_that_fails_to_free_its_memory_has_ended(place: str) -> None:
    """It is said in the log; nothing waits for it, and its id is free."""
    async with erllama.Runtime(backend_factory=backend(ValueError, place)) as runtime:
        for _ in range(2):
            model = await runtime.load_model("m", STUB)
            assert (await model.complete("hello", response_tokens=2, temperature=0.0)).generated
            model.inject_fault("thread")
            await until(lambda: runtime.list_models()[0].restarts == 1)
            await model.complete("hello", response_tokens=2, temperature=0.0)
            await runtime.unload("m")
            assert engine_threads() == []


async def test_open_calls_fail_before_the_memory_is_free() -> None:
    """Freeing it may take long, or hang."""
    freeing, go_on = threading.Event(), threading.Event()

    class Slow(StubBackend):
        def close(self) -> None:
            freeing.set()
            go_on.wait()
            super().close()

    async with erllama.Runtime(backend_factory=Slow) as runtime:
        try:
            model = await runtime.load_model("m", {**STUB, "stub": {"fail_decode_after": 0}})
            with pytest.raises(erllama.ModelCrashed):
                await model.complete("hello", on_crash="fail")
            await until(freeing.is_set)
            assert model.phase == "restarting"
            assert len(engine_threads()) == 1
        finally:
            go_on.set()


async def test_a_model_for_whose_engine_the_system_has_no_thread_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none to wait for, and no memory that it holds."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("erllama-"):
            raise RuntimeError("can't start new thread")
        start(thread)

    async with erllama.Runtime() as runtime:
        with monkeypatch.context() as system:
            system.setattr(threading.Thread, "start", refuse)
            with pytest.raises(erllama.ModelLoadError, match="can't start new thread"):
                await runtime.load_model("m", STUB)
        assert (await runtime.load_model("m", STUB)).phase == "idle"


async def test_a_loop_whose_error_has_no_text_is_restarted_as_any_other() -> None:
    """And given up as any other."""
    runs: list[int] = []

    async def fails() -> None:
        runs.append(1)
        raise Unspeakable

    async with erllama.Runtime() as runtime:
        loop = await runtime.supervise("loop", fails, limits={"intensity": 2, "backoff_first": 0.0})
        ended = await loop.wait()
        assert isinstance(ended, erllama.Raised)
        assert isinstance(ended.error.__cause__, Unspeakable)
        assert len(runs) == 3
        assert "last failure Unspeakable" in str(runtime.tree())
