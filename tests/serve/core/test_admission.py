"""A refusal of a stream is known when it is entered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers.checkpoints import turns
from helpers.served import served

import erllama_py as erllama
from erllama_py.serve.core import admission
from erllama_py.serve.core.admission import Admitted

pytestmark = pytest.mark.anyio

TEXT, MORE = erllama.TextDelta("a", [97]), erllama.TextDelta("b", [98])


class Told:
    """A stream whose events come when they are told."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[erllama.Event | Exception] = asyncio.Queue()
        self.left = 0

    def cancel(self) -> None:
        self.events.put_nowait(MORE)

    async def __aenter__(self) -> Told:
        return self

    async def __aexit__(self, *_: Any) -> None:
        self.left += 1

    def __aiter__(self) -> Told:
        return self

    async def __anext__(self) -> erllama.Event:
        event = await self.events.get()
        if isinstance(event, Exception):
            raise event
        return event


async def test_the_first_event_is_waited_for_and_kept() -> None:
    """And those that follow it come as they are."""
    told = Told()
    told.events.put_nowait(TEXT)
    async with Admitted(told) as stream:
        told.events.put_nowait(MORE)
        assert [await anext(stream), await anext(stream)] == [TEXT, MORE]
    assert told.left == 1


async def test_what_is_refused_raises_at_once() -> None:
    """And is left."""
    told = Told()
    told.events.put_nowait(erllama.QueueFull("m", 1, 1))
    with pytest.raises(erllama.QueueFull):
        await Admitted(told).__aenter__()
    assert told.left == 1


async def test_a_slow_one_is_entered_before_its_first_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which comes in its place; one that is cancelled or left meanwhile ends."""
    monkeypatch.setattr(admission, "REFUSAL_SECONDS", 0.0)
    told = Told()
    async with Admitted(told) as stream:
        told.events.put_nowait(TEXT)
        assert await anext(stream) == TEXT
        stream.cancel()
        assert await anext(stream) == MORE
    async with Admitted(told):
        pass
    assert told.left == 2


async def test_a_client_that_leaves_while_it_is_entered() -> None:
    """Leaves the stream too."""
    told = Told()
    entering = asyncio.create_task(Admitted(told).__aenter__())
    await turns(3)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert told.left == 1


async def test_a_full_queue_has_a_status_in_a_stream() -> None:
    """429, with a time."""
    slow: Any = {"stub": {"seconds_per_token": 0.01}}  # what runs is not over before the test is
    one = {**slow, "scheduler": {"max_pending": 1}, "context_opts": {"n_ctx": 1 << 17, "n_seq_max": 1}}
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True}
    async with served(one) as at, at.model.stream("x", ignore_eos=True) as running:
        await anext(running)  # it waits no more, and leaves the queue to the next
        async with at.model.stream("y", ignore_eos=True):
            answer = await at.client.post("/v1/chat/completions", json=body)
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
