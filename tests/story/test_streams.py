"""A stream token by token: what each costs the loop, and that nothing overtakes anything."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from helpers.runtime import STUB, drain, stub_runtime

import erllama_py as erllama
from erllama_py.engine.backend import DecodeStatus, Slice
from erllama_py.engine.jobs import Finished, Outcome
from erllama_py.engine.stub import StubBackend
from erllama_py.engine.thread import EngineThread
from erllama_py.handle.event_queue import EventQueue
from erllama_py.options.model import ModelConfig

pytestmark = pytest.mark.anyio
GREEDY: dict[str, Any] = {"temperature": 0.0, "response_tokens": 24}


class SteppedBackend(StubBackend):
    """Each decode takes a step, which a test gives."""

    def __init__(self, model_id: str, config: ModelConfig, steps: threading.Semaphore) -> None:
        super().__init__(model_id, config)
        self._steps = steps

    def decode(self, slices: Sequence[Slice]) -> DecodeStatus:
        while not self._steps.acquire(timeout=0.01):
            if self._abort.is_set():
                return DecodeStatus.ABORTED
        return super().decode(slices)


@asynccontextmanager
async def stepped() -> AsyncIterator[tuple[erllama.Model, threading.Semaphore]]:
    steps = threading.Semaphore(0)
    async with erllama.Runtime(backend_factory=partial(SteppedBackend, steps=steps)) as runtime:
        yield await runtime.load_model("m", STUB), steps


async def test_a_token_costs_one_wake_up_and_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader is woken once for each. The machine is asked for what is to be decided, and that is nothing of it."""
    waits, wait = list[EventQueue[Any]](), EventQueue.changed

    async def counted(events: EventQueue[Any]) -> None:
        waits.append(events)
        await wait(events)

    monkeypatch.setattr(EventQueue, "changed", counted)
    async with stepped() as (model, steps):
        actor = model._caller.board.ref
        assert actor is not None
        async with model.stream("hello", **GREEDY) as events:
            steps.release()
            seen = [await anext(events), await anext(events)]  # what the machine handles
            assert isinstance(seen[1], erllama.TextDelta)
            waits.clear()
            before, messages = actor._mailbox.received, []
            for _ in range(12):
                steps.release()
                assert isinstance(await anext(events), erllama.TextDelta)
                messages.append(actor._mailbox.received - before)
            assert messages == [0] * 12
            assert len(waits) == 12


async def test_text_never_overtakes_what_came_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where all batches reach the loop in one go: progress, then the text as it was sampled, then the end."""
    batches: list[Sequence[Outcome]] = []

    def post(thread: EngineThread, outcomes: Sequence[Outcome]) -> None:
        batches.append(outcomes)
        if any(isinstance(outcome, Finished) for outcome in outcomes):
            thread._call_loop(lambda: [thread._deliver(batch) for batch in batches])

    async with stub_runtime() as (_, model):
        expected = await drain(model.stream("hello", **GREEDY))
    monkeypatch.setattr(EngineThread, "_post", post)
    async with stub_runtime() as (_, model):
        seen = await drain(model.stream("hello", **GREEDY))
    assert len(batches) > 10
    assert seen[:-1] == expected[:-1]
    assert isinstance(seen[0], erllama.Progress)
    assert isinstance(seen[-1], erllama.Done)


async def test_a_reader_that_is_cancelled_loses_no_event() -> None:
    """It may be read on afterwards; the event that came meanwhile is still there."""
    async with stepped() as (model, steps), model.stream("hello", **GREEDY) as events:
        with anyio.move_on_after(0):
            await anext(events)
        async with anyio.create_task_group() as group:
            group.start_soon(anext, events)
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        for _ in range(2):
            steps.release()
        assert isinstance(await anext(events), erllama.Progress)
        assert isinstance(await anext(events), erllama.TextDelta)


async def test_the_text_alone_is_one_word_away() -> None:
    """`events.text` leaves out everything else; it can be taken up again where it was left."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", STUB)
        whole = await model.complete("hello", **GREEDY, seed=1)
        async with model.stream("hello", **GREEDY, seed=1) as events:
            texts = [await anext(events.text)]
            texts += [text async for text in events.text]
        assert len(texts) > 2
        assert "".join(texts) == whole.reply
        with pytest.raises(erllama.StreamMisused):
            await anext(events.text)
