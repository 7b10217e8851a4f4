"""Callers cancelled at each await of what they call: nothing leaks, and the next caller is served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from helpers.checkpoints import Strike, at_each_checkpoint
from helpers.runtime import STUB, drain, engine_threads, stub_runtime, until

import erllama_py as erllama

pytestmark = pytest.mark.anyio


async def struck(strike: Strike, coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run `coroutine` in a task of its own and strike it there."""
    with suppress(asyncio.CancelledError):
        await asyncio.get_running_loop().create_task(strike.coroutine(coroutine))


async def test_a_load_cancelled_anywhere_leaves_nothing() -> None:
    """Loaded or gone: no thread without a model, and the id is free if it is gone."""

    async def scenario(strike: Strike) -> None:
        async with erllama.Runtime() as runtime:
            await struck(strike, runtime.load_model("m", STUB))
            loaded = [info.id for info in runtime.list_models()]
            assert engine_threads() == [f"erllama-{model_id}" for model_id in loaded]
            if not loaded:
                await runtime.load_model("m", STUB)
            assert (await runtime.complete("m", "hello", response_tokens=1, temperature=0.0)).generated

    assert await at_each_checkpoint(scenario) > 0
    assert engine_threads() == []


async def test_an_unload_cancelled_anywhere_still_unloads() -> None:
    """The caller has gone; the model goes too, and its memory is freed."""

    async def scenario(strike: Strike) -> None:
        async with stub_runtime() as (runtime, model):
            await struck(strike, runtime.unload(model))
            await until(lambda: engine_threads() == [])
            with suppress(erllama.ModelNotLoaded):
                await runtime.unload("m")
            assert (await runtime.load_model("m", STUB)).phase == "idle"

    assert await at_each_checkpoint(scenario) > 0


@pytest.mark.parametrize("how", ["complete", "stream", "chat"])
async def test_a_request_cancelled_anywhere_frees_the_model(how: str) -> None:
    """The queue is empty again, and the next reply is right."""

    async def ask(model: erllama.Model) -> None:
        match how:
            case "complete":
                await model.complete("hello there", response_tokens=5, temperature=0.0)
            case "stream":
                await drain(model.stream("hello there", response_tokens=5, temperature=0.0))
            case _:
                await model.chat([{"role": "user", "content": "hello"}], response_tokens=5, temperature=0.0)

    async def scenario(strike: Strike) -> None:
        async with stub_runtime() as (_, model):
            expected = await model.complete("hello", response_tokens=4, temperature=0.0)
            await struck(strike, ask(model))
            await until(lambda: model.queue_depth == 0)
            again = await model.complete("hello", response_tokens=4, temperature=0.0)
            assert again.reply == expected.reply

    assert await at_each_checkpoint(scenario) > 0


async def test_a_runtime_whose_end_is_cancelled_ends_all_the_same() -> None:
    """Leaving the block closes the tree, whoever is in a hurry."""

    async def body() -> None:
        async with stub_runtime() as (_, model):
            await model.complete("hello", response_tokens=2, temperature=0.0)

    async def scenario(strike: Strike) -> None:
        await struck(strike, body())
        await until(lambda: engine_threads() == [])

    assert await at_each_checkpoint(scenario) > 0


async def test_a_supervise_cancelled_anywhere_leaves_nothing() -> None:
    """Started or not, the name is either in the tree or free."""

    async def scenario(strike: Strike) -> None:
        async with erllama.Runtime() as runtime:
            started: list[int] = []

            async def loop() -> None:
                started.append(1)
                await asyncio.Event().wait()

            await struck(strike, runtime.supervise("loop", loop))
            if "loop" not in str(runtime.tree()):
                await (await runtime.supervise("loop", loop)).stop()

    await at_each_checkpoint(scenario)


TURNS: dict[str, dict[str, Any]] = {
    "chat": {}, "raw": {}, "long": {}, "stream": {}, "left": {"response_tokens": 400}, "by id": {"session_id": "s"},
    "wait": {"session_wait": True}, "deadline": {"session_wait": True, "deadline": 5},
}  # fmt: skip


async def turn(model: erllama.Model, session: erllama.Session, how: str) -> None:
    """One turn of the session, in one of `TURNS`."""
    options = {"response_tokens": 4, **TURNS[how]}
    match how:
        case "raw":
            await session.complete(" and", **options)
        case "long":  # its tokens are worked on by a worker thread
            await session.complete([97] * 4500, **options)
        case "stream":
            await drain(session.stream_chat("again", **options))
        case "left":
            async with session.stream_chat("again", **options) as events:
                async for event in events:
                    if isinstance(event, erllama.TextDelta):
                        break
        case "by id":
            await model.complete([*session.tokens, 97], **options)
        case _:
            await session.chat("again", **options)


@asynccontextmanager
async def with_session() -> AsyncIterator[tuple[erllama.Runtime, erllama.Model, erllama.Session]]:
    """A model that holds a session of one turn; afterwards the session continues from there, in one sequence."""
    async with erllama.Runtime() as runtime:
        options: erllama.ModelConfigDict = {
            **STUB,
            "context_opts": {"n_ctx": 16384, "n_seq_max": 3},
            "policy": {"min_tokens": 8},
        }
        model = await runtime.load_model("m", options)
        session = model.session("s")
        await session.chat("hello", response_tokens=3, temperature=0.0)
        before = session.tokens
        yield runtime, model, session
        await until(lambda: model.queue_depth == 0)
        assert "idle" in repr(session)
        await session.chat("again", response_tokens=4, temperature=0.0)
        assert session.tokens[: len(before)] == before
        await until(lambda: model.queue_depth == 0)
        assert model._board.state is not None
        assert [slot.session_id for slot in model._board.state.slots].count("s") == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", TURNS)
async def test_a_turn_cancelled_anywhere_leaves_its_session_free(how: str) -> None:
    """It holds one sequence, is not busy, and the next turn extends what it has."""

    async def scenario(strike: Strike) -> None:
        async with with_session() as (_, model, session):
            await struck(strike, turn(model, session, how))

    assert await at_each_checkpoint(scenario) > 0


@pytest.mark.parametrize("how", ["explain", "prefill only", "evict", "end of another"])
async def test_what_is_asked_beside_a_session_can_be_cancelled_anywhere(how: str) -> None:
    """The session stays what it is."""

    async def scenario(strike: Strike) -> None:
        async with with_session() as (runtime, model, _):
            match how:
                case "explain":
                    await struck(strike, model.explain("hello you", session_id="s"))
                case "prefill only":
                    await struck(strike, model.prefill_only("hello there all"))
                case "evict":
                    await struck(strike, runtime.evict(model))
                case _:
                    await struck(strike, model.session("t").end())

    await at_each_checkpoint(scenario)
