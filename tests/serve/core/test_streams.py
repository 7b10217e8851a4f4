"""The response of a stream, with clients that leave, do not read, or fail at every step, and writers that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Message

import erllama_py as erllama
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.streams import SSE, Streamed

pytestmark = pytest.mark.anyio
COMPLETION: Any = None  # nothing is read of it here
DONE = erllama.Done(COMPLETION)


class Script:
    """A stream whose events a test gives; cancelled, it ends as streams do."""

    def __init__(self, *events: erllama.Event | Exception, hangs: bool = False) -> None:
        self._events = asyncio.Queue[Any]()
        for event in events:
            self._events.put_nowait(event)
        self._hangs = hangs
        self.cancelled = 0
        self.left = 0

    def cancel(self) -> None:
        self.cancelled += 1
        if not self._hangs:
            self._events.put_nowait(DONE)

    async def __aiter__(self) -> AsyncIterator[Any]:
        while True:
            event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            yield event

    async def __aexit__(self, *_: object) -> None:
        self.left += 1


class Plain:
    """A writer that shows each event as a letter, and fails where a test wants it to."""

    media_type = SSE
    heartbeat = b"~"

    def __init__(self, fails: str = "") -> None:
        self._fails = fails

    def _say(self, what: str, data: bytes) -> bytes:
        if what in self._fails.split():
            raise ValueError(what)
        return data

    def begin(self) -> bytes:
        return self._say("begin", b"<")

    def event(self, event: erllama.Event) -> bytes:
        return self._say("event", b"t")

    def done(self, completion: erllama.Completion) -> bytes:
        return self._say("done", b">")

    def failed(self, problem: Problem) -> bytes:
        return self._say("failed", b"!")


class Seen:
    """What an observer is told, in a word each."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def piece(self) -> None:
        self.words.append("piece")

    def complete(self, completion: erllama.Completion) -> None:
        self.words.append("complete")

    def failure(self, error: BaseException) -> None:
        self.words.append("failure")

    def left(self) -> None:
        self.words.append("left")


class Client:
    """An ASGI server's side of one response: `before` is called at each send, with how many there were."""

    def __init__(self, before: Callable[[int], Any] = lambda number: None) -> None:
        self.sent: list[Message] = []
        self.gone = asyncio.Event()
        self._before = before
        self._number = 0

    async def send(self, message: Message) -> None:
        self._number += 1
        if (waiting := self._before(self._number)) is not None:
            await waiting
        self.sent.append(message)

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    @property
    def text(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def ended(self) -> bool:
        return bool(self.sent) and self.sent[-1].get("more_body") is False


async def respond(
    script: Script, client: Client, writer: Plain | None = None, *, heartbeat: float = 100, patience: float = 100
) -> Seen:
    """Send a stream to a client, whatever becomes of it; then nothing of it is left over."""
    seen = Seen()
    stream: Any = script
    response = Streamed(stream, writer or Plain(), seen, heartbeat=heartbeat, patience=patience)
    others = len(asyncio.all_tasks())
    with anyio.fail_after(20):
        try:
            await response({}, client.receive, client.send)
        finally:
            assert script.left == 1
            await anyio.lowlevel.checkpoint()
            assert len(asyncio.all_tasks()) == others
    return seen


TEXT = erllama.TextDelta("t", [1])


async def test_all_of_a_stream_is_sent() -> None:
    """Its end too; nothing is cancelled."""
    script, client = Script(TEXT, TEXT, DONE), Client()
    assert (await respond(script, client)).words == ["piece", "piece", "complete"]
    assert (client.text, client.ended, script.cancelled) == (b"<tt>", True, 0)


async def test_a_client_that_has_left_before_gets_nothing_computed() -> None:
    """What was computed until the cancellation is counted."""
    script, client = Script(), Client()
    client.gone.set()
    assert (await respond(script, client)).words == ["left", "complete"]
    assert script.cancelled == 1


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_client_that_leaves_while_something_is_sent(number: int) -> None:
    """At the status, the beginning, or a piece: the send that waits for it is given up."""

    async def forever() -> None:
        client.gone.set()
        await anyio.sleep_forever()

    script, client = Script(TEXT), Client(lambda sent: forever() if sent == number else None)
    assert (await respond(script, client)).words[-2:] == ["left", "complete"]
    assert (script.cancelled, client.ended) == (1, False)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
async def test_a_send_that_fails_is_a_client_that_has_left(number: int) -> None:
    """And no failure of the server's; nothing is sent after it."""

    def broken(sent: int) -> None:
        if sent == number:
            raise BrokenPipeError

    script, client = Script(TEXT, DONE), Client(broken)
    seen = await respond(script, client)
    assert "failure" not in seen.words
    assert seen.words.count("complete") == 1
    assert "left" in seen.words
    assert len(client.sent) == number - 1


async def test_a_server_that_reports_the_end_as_a_client_that_left() -> None:
    """Once all is there, the stream is complete, whatever is heard of the client."""

    def told(sent: int) -> Any:
        if sent == 3:
            client.gone.set()
            return anyio.lowlevel.checkpoint()
        return None

    script, client = Script(DONE), Client(told)
    assert (await respond(script, client)).words == ["complete"]
    assert client.ended


@pytest.mark.parametrize("where", ["begin", "event", "done"])
async def test_an_exception_in_a_writer_ends_the_stream(where: str) -> None:
    """With an error in its API's shape; the request is not left to go on."""
    script, client = Script(TEXT, DONE), Client()
    seen = await respond(script, client, Plain(where))
    assert seen.words[-1] == "failure"
    assert client.text.endswith(b"!")
    assert client.ended


async def test_a_writer_that_cannot_even_fail() -> None:
    """It raises, and the stream is left all the same."""
    script, client = Script(TEXT), Client()
    with pytest.raises(ValueError, match="failed"):
        await respond(script, client, Plain("event failed"))


async def test_an_error_of_the_model_is_the_last_event() -> None:
    """There is no status any more."""
    script, client = Script(TEXT, erllama.DecodeFailed("it failed")), Client()
    assert (await respond(script, client)).words == ["piece", "failure"]
    assert (client.text, client.ended) == (b"<t!", True)


async def test_a_quiet_stream_says_that_it_lives() -> None:
    """Until a piece comes."""
    script = Script()

    def enough(sent: int) -> None:
        if sent == 4:
            script._events.put_nowait(DONE)

    client = Client(enough)
    await respond(script, client, heartbeat=0.001)
    assert client.text.startswith(b"<~~")
    assert client.text.endswith(b">")


@pytest.mark.parametrize("number", [1, 2, 3, 4])
async def test_a_client_that_does_not_read_has_gone(number: int) -> None:
    """At the status, the beginning, a piece, or the end; nothing is sent in between."""
    script = Script(TEXT, DONE)
    client = Client(lambda sent: anyio.sleep_forever() if sent == number else None)
    seen = await respond(script, client, heartbeat=0.002, patience=0.01)
    assert "left" in seen.words
    assert seen.words.count("complete") == 1
    assert len(client.sent) == number - 1


async def test_a_client_that_does_not_read_while_the_prompt_is_read() -> None:
    """Not even the signs of life."""
    script = Script()
    client = Client(lambda sent: anyio.sleep_forever() if sent == 4 else None)
    assert (await respond(script, client, heartbeat=0.001, patience=0.01)).words == ["left", "complete"]
    assert client.text == b"<~"


async def test_an_engine_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the request came to is never known then."""
    monkeypatch.setattr("erllama_py.serve.core.streams.CANCEL_SECONDS", 0.01)
    script, client = Script(hangs=True), Client()
    client.gone.set()
    assert (await respond(script, client)).words == ["left"]
    assert script.cancelled == 1


async def test_a_server_that_cancels_its_tasks() -> None:
    """As at its end: the stream is left."""
    script, client = Script(hangs=True), Client()
    task = asyncio.create_task(respond(script, client))
    while not client.sent:
        await anyio.lowlevel.checkpoint()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await anyio.lowlevel.checkpoint()
        task.cancel()
        await task
    assert script.left == 1
