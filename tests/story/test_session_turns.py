"""What becomes of a session's turn: answered, cancelled, left early, failed, refused. On the stub backend."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest
from helpers.runtime import slow_stub, stub_runtime, until

import erllama_py as erllama

pytestmark = pytest.mark.anyio

SHORT: dict[str, Any] = {"response_tokens": 8, "temperature": 0.0}


async def test_a_stream_commits_its_turn_with_done() -> None:
    """From then on the next turn may begin, inside the block too."""
    async with stub_runtime() as (_, model), model.session() as session:
        async with session.stream_chat("Hello", **SHORT) as events:
            async for event in events:
                if isinstance(event, erllama.Done):
                    assert session.tokens[-8:] == event.completion.generated
                    await session.chat("And now?", **SHORT)
                else:
                    assert session.tokens == []
        assert len(session.messages) == 4
        assert repr(session).endswith(f"idle, 4 messages, {len(session.tokens)} tokens>")


async def test_a_stream_that_is_cancelled_commits_what_it_has() -> None:
    """Its `Done` says what that is."""
    async with stub_runtime() as (_, model), model.session() as session:
        async with session.stream_chat("Hello", response_tokens=2_000, temperature=0.0) as events:
            async for event in events:
                if isinstance(event, erllama.TextDelta):
                    events.cancel()
        assert isinstance(event, erllama.Done)
        assert session.tokens[event.completion.prompt_tokens :] == event.completion.generated != []
        held = session.tokens
        await session.chat("And now?", **SHORT)
        assert session.tokens[: len(held)] == held


async def test_a_stream_that_is_left_commits_what_was_generated() -> None:
    """Leaving the block waits for that, so the next turn can follow at once."""
    async with stub_runtime() as (_, model), model.session() as session:
        async with session.stream_chat("Hello", response_tokens=2_000, temperature=0.0) as events:
            async for event in events:
                if isinstance(event, erllama.TextDelta):
                    break
        assert isinstance(event, erllama.TextDelta)
        assert session.messages[1]["content"].startswith(event.text)
        held = session.tokens
        await session.chat("And now?", **SHORT)
        assert session.tokens[: len(held)] == held


async def test_a_turn_that_is_left_before_its_reply_began_is_none() -> None:
    """It can be said again."""
    async with slow_stub() as (_, model, gate):
        session = model.session()
        async with session.stream_chat("Hello", **SHORT):
            pass
        assert (session.tokens, session.messages) == ([], [])
        gate.set()
        await session.chat("Hello", **SHORT)
        assert len(session.messages) == 2


async def test_a_caller_that_is_cancelled_leaves_the_session_as_it_was() -> None:
    """What had been generated is not known then; the turn can be sent again."""
    async with slow_stub() as (_, model, gate):
        session = model.session()

        async def stream() -> None:
            async with session.stream_chat("Hello", **SHORT) as events:
                async for _ in events:
                    pass

        for turn in (lambda: session.chat("Hello", **SHORT), stream):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(turn)
                await until(lambda: "busy" in repr(session) and model.queue_depth > 0)
                tasks.cancel_scope.cancel()
            assert (session.tokens, session.messages) == ([], [])
        gate.set()
        await session.chat("Hello", **SHORT)
        assert len(session.messages) == 2


async def test_a_reader_that_is_cancelled_waits_for_nothing() -> None:
    """Not even for what the engine has by then, also where the cancellation comes once only."""
    async with stub_runtime() as (_, model), model.session() as session:
        reading = anyio.Event()

        async def read() -> None:
            async with session.stream_chat("Hello", **SHORT) as events:
                async for event in events:
                    if isinstance(event, erllama.TextDelta):
                        reading.set()
                        await anyio.sleep_forever()

        task = asyncio.create_task(read())
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (session.tokens, session.messages) == ([], [])
        await session.chat("Hello", **SHORT)
        assert len(session.messages) == 2


@pytest.mark.parametrize("streamed", [False, True], ids=["chat", "stream"])
async def test_a_turn_that_fails_commits_nothing_and_can_be_said_again(streamed: bool) -> None:
    """A bad grammar fails the request in the engine; a bad option fails before."""
    async with stub_runtime() as (_, model), model.session() as session:
        await session.chat("Hello", **SHORT)
        held, messages = session.tokens, session.messages

        async def fail(**options: Any) -> None:
            if not streamed:
                await session.chat("Next", **options)
                return
            async with session.stream_chat("Next", **options) as events:
                async for _ in events:
                    pass

        with pytest.raises(erllama.InvalidGrammar):
            await fail(grammar="")
        with pytest.raises(erllama.InvalidOption):
            await fail(temperature=-1)
        assert (session.tokens, session.messages) == (held, messages)
        await session.chat("Next", **SHORT)
        assert session.tokens[: len(held)] == held


async def test_a_crash_takes_no_tokens_of_a_session() -> None:
    """They are the caller's: the turn is said again to the model that came back."""
    async with stub_runtime() as (_, model), model.session() as session:
        await session.chat("Hello", **SHORT)
        held = session.tokens
        async with session.stream_chat("Next", response_tokens=2_000, on_crash="fail") as events:
            model.inject_fault("decode")
            with pytest.raises(erllama.ModelCrashed):
                [event async for event in events]
        assert session.tokens == held
        await session.chat("Next", **SHORT)
        assert session.tokens[: len(held)] == held


async def test_a_turn_goes_on_after_a_crash_and_so_does_the_session() -> None:
    """Its tokens are those of a turn that was not disturbed, and the next one extends them."""
    exact: dict[str, Any] = {"temperature": 0.0, "response_tokens": 60, "ignore_eos": True}
    turns: list[list[int]] = []
    for crashes in (False, True):
        async with stub_runtime(seconds_per_token=0.001) as (_, model), model.session() as session:
            await session.chat("Hello", **exact)
            async with session.stream_chat("Next", **exact) as events:
                async for event in events:
                    if crashes and isinstance(event, erllama.TextDelta):
                        crashes = False
                        model.inject_fault("decode")
            held = session.tokens
            await session.chat("And so on", **exact)
            assert session.tokens[: len(held)] == held
            assert session.exact
            turns.append(session.tokens)
    assert turns[0] == turns[1]


async def test_a_second_turn_at_once_is_refused() -> None:
    """Or waits for the first, if it is asked to."""
    async with slow_stub() as (_, model, gate):
        session = model.session("s")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: session.chat("one", **SHORT))
            await until(lambda: "busy" in repr(session))
            with pytest.raises(erllama.SessionBusy) as refused:
                await session.chat("two", **SHORT)
            assert refused.value.session_id == "s"
            tasks.start_soon(lambda: session.chat("three", session_wait=True, **SHORT))
            await until(lambda: model.queue_depth > 0)
            gate.set()
        assert [message["content"] for message in session.messages[::2]] == ["one", "three"]


async def test_a_session_that_ended_says_so() -> None:
    """Ending it twice is allowed; a block ends it too."""
    async with stub_runtime() as (_, model):
        async with model.session("s") as session:
            await session.chat("Hello", **SHORT)
        await session.end()
        with pytest.raises(erllama.SessionEnded) as refused:
            await session.chat("Hello", **SHORT)
        assert refused.value.session_id == "s"
        with pytest.raises(erllama.SessionEnded):
            await session.stream("Hello").__aenter__()
        assert "ended" in repr(session)


async def test_a_session_ends_after_its_model_was_unloaded() -> None:
    """The model has forgotten it then."""
    async with stub_runtime() as (runtime, model), model.session():
        await runtime.unload(model)
