"""A runtime lives in one event loop: used in another one, or in none, it says so at once."""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
from helpers.public_calls import MADE_ANYWHERE, MESSAGES, cache_calls, model_calls, public, runtime_calls
from helpers.runtime import STUB, stub_runtime, until

import erllama_py as erllama
from erllama_py.cache.handle import Cache

pytestmark = pytest.mark.anyio


async def outcome(call: Callable[[], object]) -> BaseException | None:
    """What a call, which may have to be awaited, raises."""
    try:
        answer = call()
        if inspect.isawaitable(answer):
            async with asyncio.timeout(5):  # for a test gone wrong: it used to hang
                await answer
    except BaseException as error:
        return error
    return None


def in_another_loop(call: Callable[[], object]) -> BaseException | None:
    """The same, in a loop of its own on this thread."""
    return asyncio.run(outcome(call))


def outside_any_loop(call: Callable[[], object]) -> BaseException | None:
    """The same, for what is not awaited; a coroutine that is never begun does no harm."""
    answer = None
    try:
        answer = call()
    except BaseException as error:
        return error
    finally:
        if inspect.iscoroutine(answer):
            answer.close()
    return None


async def refused(calls: dict[str, Callable[[], object]]) -> None:
    """Each call is refused from another loop, with an error that says where home is."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="elsewhere") as elsewhere:
        for name, call in calls.items():
            error = await loop.run_in_executor(elsewhere, in_another_loop, call)
            assert isinstance(error, erllama.WrongLoop), (name, error)
            assert "thread 'MainThread'" in error.home, name
            assert "thread 'elsewhere_0'" in error.here, name
            bare = await loop.run_in_executor(elsewhere, outside_any_loop, call)
            assert bare is None or isinstance(bare, erllama.WrongLoop), (name, bare)


async def test_every_call_of_a_model_is_refused_elsewhere() -> None:
    """By handle; and the model is none the worse for it."""
    async with stub_runtime() as (_, model):
        calls = model_calls(model)
        assert set(calls) == public(erllama.Model, MADE_ANYWHERE)
        await refused(calls)
        assert (await model.complete("hello", response_tokens=1, temperature=0.0)).generated


async def test_every_call_of_a_runtime_is_refused_elsewhere() -> None:
    """By id too, and the probes among them: they look into what the loop changes."""
    async with stub_runtime() as (runtime, model):
        calls = runtime_calls(runtime)
        assert set(calls) == public(erllama.Runtime, {"cache"})
        await refused(calls)
        assert [node.name for node in runtime.tree().children][-1] == "user"
        assert (await model.complete("hello", response_tokens=1, temperature=0.0)).generated


async def test_every_call_of_the_cache_is_refused_elsewhere() -> None:
    """Reading and writing."""
    async with stub_runtime() as (runtime, _):
        calls = cache_calls(runtime.cache)
        assert set(calls) == public(Cache, set())
        await refused(calls)


@pytest.mark.slow
async def test_sessions_streams_and_loops_are_refused_elsewhere() -> None:
    """Also those that are in use: a busy session's turn would wait for what never comes."""
    async with stub_runtime(seconds_per_token=0.01) as (runtime, model):
        session, loop = model.session("s"), await runtime.supervise("loop", anyio.sleep_forever)

        async def enter(stream: erllama.Stream) -> None:
            async with stream:
                raise AssertionError("never entered")

        calls: dict[str, Callable[[], Any]] = {
            "stop": loop.stop,
            "wait": loop.wait,
            "stream": lambda: enter(model.stream("hello")),
            "stream_chat": lambda: enter(model.stream_chat(MESSAGES)),
        }
        turns: dict[str, Callable[[], Any]] = {
            "chat": lambda: session.chat("hello", session_wait=True),
            "complete": lambda: session.complete("hello", session_wait=True),
            "stream_chat": lambda: enter(session.stream_chat("hello", session_wait=True)),
            "stream": lambda: enter(session.stream("hello", session_wait=True)),
            "trim": lambda: session.trim(1),
            "end": session.end,
        }
        assert set(turns) == public(erllama.Session, set())
        await refused(calls | turns)
        async with model.stream("hello", response_tokens=100) as events:
            await refused(
                turns | {"next": lambda: anext(events), "cancel": events.cancel, "id": lambda: events.request_id}
            )
            await refused({"text": lambda: anext(aiter(events.text))})
            async with session.stream_chat("hello", response_tokens=50) as turn:
                await refused({"next": lambda: anext(events), "cancel": events.cancel, "id": lambda: events.request_id})
            await refused({"text": lambda: anext(aiter(events.text))})
            async with session.stream_chat("hello", response_tokens=50) as turn:
                await refused(turns | {"next": lambda: anext(turn), "cancel": turn.cancel})
        assert (await session.chat("hello", response_tokens=1, temperature=0.0)).generated
        await loop.stop()


def test_a_second_asyncio_run_learns_where_the_runtime_lives() -> None:
    """One that was opened in the first and never closed; one that was closed says that instead.

    The interpreter's switch interval is given back by both.
    """
    kept: list[erllama.Runtime] = []
    interval = sys.getswitchinterval()

    async def first() -> None:
        runtime = erllama.Runtime()
        await runtime.__aenter__()
        kept.append(runtime)
        await runtime.load_model("m", STUB)

    async def second() -> None:
        [runtime] = kept
        for call in (lambda: runtime.complete("m", "hello"), lambda: runtime.__aexit__(None, None, None)):
            async with asyncio.timeout(5):
                with pytest.raises(erllama.WrongLoop):
                    await call()

    async def closed() -> None:
        async with erllama.Runtime() as runtime:
            kept.append(runtime)

    async def after() -> None:
        with pytest.raises(erllama.RuntimeClosed):
            await kept[-1].load_model("m", STUB)

    asyncio.run(first())
    assert sys.getswitchinterval() == pytest.approx(interval)
    asyncio.run(second())
    asyncio.run(closed())
    asyncio.run(after())


async def test_probes_of_a_handle_may_be_read_from_anywhere() -> None:
    """They are plain fields of a board: a thread that exports metrics reads them."""
    async with stub_runtime() as (_, model):
        seen: list[object] = []
        thread = threading.Thread(target=lambda: seen.append((model.phase, model.pending_len, model.info.id)))
        thread.start()
        await until(lambda: bool(seen))
        thread.join()
    assert seen == [("idle", 0, "m")]
