"""A deadline bounds the whole call: whatever it waits for, the answer is that of a request that was cancelled, and
says why."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from helpers.runtime import STUB, drain, slow_stub, stub_runtime, until

import erllama_py as erllama
from erllama_py.chat.template import ChatTemplate
from erllama_py.engine.stub import StubBackend
from erllama_py.model import open_request
from erllama_py.options.model import ModelConfig

pytestmark = pytest.mark.anyio

SOON: dict[str, Any] = {"deadline": 0.01, "response_tokens": 4}
HELLO = [{"role": "user", "content": "Hello"}]


@asynccontextmanager
async def restarting() -> AsyncIterator[erllama.Model]:
    """A model that has crashed and does not come back before the block is left."""
    back = threading.Event()
    back.set()

    def make(model_id: str, config: ModelConfig) -> StubBackend:
        back.wait()
        return StubBackend(model_id, config)

    async with erllama.Runtime(backend_factory=make) as runtime:
        model = await runtime.load_model("m", STUB)
        back.clear()
        model.inject_fault()
        await until(lambda: model.phase == "restarting")
        try:
            yield model
        finally:
            back.set()


def is_late(done: erllama.Completion) -> bool:
    return (done.finish_reason, done.generated, done.reply) == ("deadline", [], "")


async def last(stream: erllama.Stream) -> erllama.Completion:
    (done,) = await drain(stream)
    assert isinstance(done, erllama.Done)
    return done.completion


async def test_it_passes_while_the_model_is_away() -> None:
    """In every way to ask; the model need not come back for it."""
    async with restarting() as model:
        session = model.session()
        for asked in (
            model.complete("hello", **SOON), last(model.stream("hello", **SOON)),
            model.chat(HELLO, **SOON), last(model.stream_chat(HELLO, **SOON)),
            session.chat("hello", **SOON), last(session.stream_chat("hello", **SOON)),
        ):  # fmt: skip
            done = await asked
            assert is_late(done)
            assert done.stats.queued_seconds == done.stats.first_token_seconds > 0
        assert model.phase == "restarting"
        assert (session.messages, "idle" in repr(session)) == ([], True)


@pytest.mark.parametrize("streamed", [False, True], ids=["chat", "stream"])
async def test_it_passes_while_another_turn_of_the_session_is_under_way(streamed: bool) -> None:
    """That one is answered, and the next one follows as if nothing had been asked."""
    async with slow_stub() as (_, model, gate):
        session = model.session()
        first = asyncio.create_task(session.chat("one", response_tokens=4))
        await until(lambda: model.queue_depth == 1)
        options = {**SOON, "session_wait": True}
        asked = last(session.stream_chat("two", **options)) if streamed else session.chat("two", **options)
        assert is_late(await asked)
        assert "busy" in repr(session)
        gate.set()
        await first
        await session.chat("three", response_tokens=4)
        assert [message["content"] for message in session.messages[::2]] == ["one", "three"]


async def test_it_passes_while_a_template_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A template is the model's own code, and may run for ever."""
    over = threading.Event()
    monkeypatch.setattr(ChatTemplate, "render", lambda *_, **__: str(over.wait()))
    async with stub_runtime() as (_, model):
        try:
            assert is_late(await model.chat(HELLO, **SOON))
        finally:
            over.set()


FAR = 1e6  # seconds until a deadline that no test waits for


class Deadlines:
    """The timers of all deadlines that are far off; they come when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self.timers: list[tuple[asyncio.TimerHandle, partial[object]]] = []
        call_at = loop.call_at

        def noted(when: float, callback: Any, *args: Any, **options: Any) -> asyncio.TimerHandle:
            timer = call_at(when, callback, *args, **options)
            if when > loop.time() + FAR / 2:
                self.timers = [one for one in self.timers if not one[0].cancelled()]
                self.timers.append((timer, partial(callback, *args)))
            return timer

        monkeypatch.setattr(loop, "call_at", noted)

    def come(self) -> None:
        """Now."""
        for timer, call in self.timers:
            if not timer.cancelled():
                timer.cancel()
                call()


async def test_its_timer_is_gone_with_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would keep the request's memory until it is due."""
    async with stub_runtime() as (_, model):
        deadlines = Deadlines(monkeypatch)
        await model.complete("hello", response_tokens=4, deadline=FAR)
    assert deadlines.timers
    assert all(timer.cancelled() for timer, _ in deadlines.timers)


async def test_a_callers_own_timeout_stays_one() -> None:
    """It is not taken for the deadline."""
    async with slow_stub() as (_, model, gate):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await model.complete("hello", deadline=1e6)
        gate.set()


@asynccontextmanager
async def hanging(after: int, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[erllama.Model, StubBackend]]:
    """A model for eight at a time whose decodes hang from one on, until the block is left."""
    monkeypatch.setattr(open_request, "SETTLE_SECONDS", 0.0)
    made: list[StubBackend] = []

    def make(model_id: str, config: ModelConfig) -> StubBackend:
        made.append(StubBackend(model_id, config))
        return made[-1]

    context: erllama.ContextOptsDict = {"n_ctx": 1024, "n_seq_max": 8}
    async with erllama.Runtime(backend_factory=make) as runtime:
        model = await runtime.load_model(
            "m", {**STUB, "context_opts": context, "stub": {"hang_decode_after": after}, "policy": {"min_tokens": None}}
        )
        try:
            yield model, made[0]
        finally:
            made[0].release.set()
            await until(lambda: model.queue_depth == 0)
            assert model.info.restarts == 0
            again = await model.complete("hello again", response_tokens=4, temperature=0.0)
            assert len(again.generated) == 4


@pytest.mark.parametrize("after", [0, 3], ids=["prompt", "reply"])
async def test_it_holds_although_a_decode_hangs(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all requests in that decode, and all that wait; the engine's later answers are dropped."""
    async with hanging(after, monkeypatch) as (model, backend):
        deadlines = Deadlines(monkeypatch)
        calls = [model.complete("hello", deadline=FAR, response_tokens=50, temperature=0.0) for _ in range(12)]
        tasks = [asyncio.create_task(call) for call in calls]
        await until(lambda: backend.hung.is_set() and len(deadlines.timers) == len(tasks))
        deadlines.come()
        done = await asyncio.gather(*tasks)
        assert {one.finish_reason for one in done} == {"deadline"}
        assert model.queue_depth > 0
        if after:
            assert max(len(one.generated) for one in done) > 0
        for one in done:
            assert one.reply == bytes(one.generated).decode()
            assert (one.committed_tokens, one.finish_key) == (0, None)
            assert one.stats.decode_seconds >= 0 <= one.stats.prefill_seconds


async def test_a_stream_ends_with_what_it_has_shown_when_a_decode_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """By `cancel` as by its deadline; and a session continues from there."""
    async with hanging(4, monkeypatch) as (model, backend):
        session = model.session()
        async with session.stream_chat("hello", response_tokens=50, temperature=0.0) as events:
            shown = [event async for event in cancelled_when(backend.hung, events)]
        *deltas, last = (event for event in shown if not isinstance(event, erllama.Progress))
        assert isinstance(last, erllama.Done)
        told = last.completion
        assert told.finish_reason == "cancelled"
        assert [token for one in deltas if isinstance(one, erllama.TextDelta) for token in one.token_ids]
        assert told.generated == [t for one in deltas if isinstance(one, erllama.TextDelta) for t in one.token_ids]
        assert session.messages[-1]["content"] == told.reply


async def cancelled_when(hung: threading.Event, events: erllama.Stream) -> AsyncIterator[erllama.Event]:
    """The events of a stream that is cancelled once a decode hangs."""

    async def cancel() -> None:
        await until(hung.is_set)
        events.cancel()

    cancelling = asyncio.create_task(cancel())
    async for event in events:
        yield event
    await cancelling
