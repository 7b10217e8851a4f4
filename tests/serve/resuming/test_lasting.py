"""A stream that lasts, by itself: what its request waits for, when it ends, and what its readers are sent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from helpers.gated import gated
from helpers.runtime import until

from erllama_py.serve.access import AccessOpts
from erllama_py.serve.access.keys import make_key
from erllama_py.serve.access.settings import KeyOpts
from erllama_py.serve.app import create_app
from erllama_py.serve.core.lasting import Asked, LastingStream, Left
from erllama_py.serve.core.lasting_streams import LastingStreams
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.readers import Reader
from erllama_py.serve.core.replay import PIECE_BYTES
from erllama_py.serve.core.service import Tenant
from erllama_py.serve.core.settings import ServerOpts
from erllama_py.serve.core.tenants import tenant_key

pytestmark = pytest.mark.anyio
HEAD = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
END = {"type": "http.response.body", "body": b"", "more_body": False}
KEY = ("me", "a")


def event(text: str) -> dict[str, Any]:
    return {"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True}


class Client:
    """What a reader sends to, until its client stalls or leaves."""

    def __init__(self, stream: LastingStream, after: int = 0, **settings: Any) -> None:
        self.text, self.whole = b"", False
        self.reads = asyncio.Event()
        self.reads.set()
        self._left = asyncio.Event()
        self.task = asyncio.create_task(Reader(stream, after, ServerOpts(**settings))({}, self._receive, self._send))

    def leave(self) -> None:
        self._left.set()

    async def _receive(self) -> Any:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.reads.wait()
        self.text += message.get("body", b"")
        self.whole = message.get("more_body") is False


def begin(ended: Callable[[], None] = lambda: None, **settings: Any) -> tuple[LastingStreams, LastingStream]:
    streams = LastingStreams(ServerOpts(**settings))
    return streams, streams.begin(Asked(KEY, b"", "openai", "req_1"), ended)


async def test_heartbeats_are_sent_and_not_kept() -> None:
    """They have no number, and whoever comes later does not get them."""
    _, stream = begin()
    stream.heartbeat = b"data: ping\n\n"
    await stream.send(HEAD)
    first = Client(stream)
    await until(lambda: bool(stream._readers))
    for text in ("1", "ping", "2"):
        await stream.send(event(text))
        await until(lambda text=text: text.encode() in first.text)  # type: ignore[misc]  # of a default
    stream.finish()
    await first.task
    second = Client(stream)
    await second.task
    assert first.text == b"id: 1\ndata: 1\n\ndata: ping\n\nid: 2\ndata: 2\n\n"
    assert second.text == b"id: 1\ndata: 1\n\nid: 2\ndata: 2\n\n"
    assert first.whole
    assert second.whole


async def test_a_reader_that_is_behind_slows_the_request_down() -> None:
    """The request waits for it, and goes on when it reads again: nothing is lost to it."""
    _, stream = begin(resume_bytes=100)
    await stream.send(HEAD)
    slow = Client(stream)
    await until(lambda: bool(stream._readers))
    slow.reads.clear()

    async def request() -> None:
        for number in range(30):
            await stream.send(event(str(number)))
        await stream.send(END)
        stream.finish()

    sending = asyncio.create_task(request())
    await until(lambda: stream.replay.nbytes > 80)
    assert not sending.done()
    slow.reads.set()
    await sending
    await slow.task
    assert slow.text == b"".join(b"id: %d\ndata: %d\n\n" % (number + 1, number) for number in range(30))
    assert stream.replay.nbytes <= 100


def kept(streams: LastingStreams) -> int:
    """The bytes of all."""
    return sum(one.replay.nbytes for one in streams._streams.values())


async def test_all_together_are_bounded_while_they_are_read() -> None:
    """What all readers of a stream have had goes, and no event is lost to them."""
    streams = LastingStreams(ServerOpts(resume_bytes=400, max_resume_bytes=1000))
    several = [streams.begin(Asked((f"{n}", "a"), b"", "openai", "req_1"), lambda: None) for n in range(8)]
    for one in several:
        await one.send(HEAD)
    clients = [Client(one) for one in several]
    await until(lambda: all(one._readers for one in several))
    for number in range(40):
        await asyncio.gather(*(one.send(event(str(number))) for one in several))
        assert streams.nbytes == kept(streams) <= 1000
    for one in several:
        one.finish()
    await asyncio.gather(*(client.task for client in clients))
    assert {client.text.count(b"id: ") for client in clients} == {40}
    await streams.close()
    assert streams.nbytes == 0


@pytest.mark.parametrize("reads", [True, False])
async def test_a_tenant_that_has_much_takes_nothing_from_others(reads: bool) -> None:
    """Its own streams go, and what its readers have had: those of a tenant with little go on, read or not."""
    streams = LastingStreams(ServerOpts(resume_bytes=400, max_resume_bytes=1000))
    small = streams.begin(Asked(KEY, b"", "openai", "req_1"), lambda: None)
    await small.send(HEAD)
    await small.send(event("first"))
    with small.read_by("one that leaves", 0) as got:
        got(1)
    large, clients = [streams.begin(Asked(("you", n), b"", "openai", "req_2"), lambda: None) for n in "abcd"], []
    for one in large:
        await one.send(HEAD)
        clients.append(client := Client(one))
        await until(lambda one=one: bool(one._readers))  # type: ignore[misc]  # of a default
        for _ in range(30):
            await one.send(event("much"))
        if not reads:
            client.leave()
            await client.task
    for _ in range(9):
        await small.send(event("more"))
        assert streams.nbytes == kept(streams) <= 1000
    assert streams.find(KEY) is small
    assert small.replay.first == 1
    for client in clients:
        client.task.cancel()


async def test_a_reader_that_does_not_read_is_left() -> None:
    """After `send_seconds`; then it may come back."""
    _, stream = begin()
    await stream.send(HEAD)
    client = Client(stream, send_seconds=0.05)
    client.reads.clear()
    await client.task
    assert stream.held().left_at is not None
    assert not client.whole


async def test_a_reader_that_stays_behind_is_left() -> None:
    """However it reads a little before each `send_seconds` is over: after `resume_seconds` its stream may go."""
    _, stream = begin()
    await stream.send(HEAD)
    for _ in range(9):
        await stream.send(event("x" * PIECE_BYTES))
    stream.finish()

    class Slow(Client):
        async def _send(self, message: Any) -> None:
            await super()._send(message)
            if message.get("body"):
                self.reads.clear()

    client = Slow(stream, send_seconds=1000, resume_seconds=0.05)
    await client.task
    assert client.text.startswith(b"id: 1")
    assert stream.idle
    assert not stream.was_read


async def test_those_whose_place_a_request_takes_stay_until_it_has_begun() -> None:
    """It may be refused yet: then they are as they were, and so they are for those who read them meanwhile."""
    streams = LastingStreams(ServerOpts(max_resumable=1))
    for name in "ab":
        old = streams.begin(Asked(("me", name), b"old", "openai", "req_1"), lambda: None)
        await old.send(HEAD)
        await old.send(event("kept"))
        with old.read_by("one that leaves", 0):
            old.finish()
        for other in "ab":
            new = streams.begin(Asked(("me", other), b"new", "openai", "req_2"), lambda: None)
            assert streams.find(("me", name), after=1) is old
            assert streams.find(("me", other)) is new
            new.leave()
            assert streams.find(("me", name)) is old
    streams.begin(Asked(("me", "c"), b"", "openai", "req_3"), lambda: None)
    with pytest.raises(Problem, match="as many as this server keeps"):
        streams.begin(Asked(("me", "d"), b"", "openai", "req_4"), lambda: None)
    assert streams.find(("me", "b")) is old
    streams.stop(("me", "b"))
    assert streams.find(("me", "b")) is None


async def test_a_reply_that_nobody_could_have_whole_ends() -> None:
    """It outgrows its bound while nobody reads; what was sent to a client that left may go, what was not may not."""
    streams, stream = begin(resume_bytes=100)
    await stream.send(HEAD)
    client = Client(stream)
    await stream.send(event("sent"))
    await until(lambda: b"sent" in client.text)
    client.leave()
    await client.task

    async def request() -> None:
        for number in range(30):
            await stream.send(event(str(number)))

    with pytest.raises(Left):
        await request()
    assert stream.replay.first == 2
    assert (await stream.receive())["type"] == "http.disconnect"
    assert streams.find(KEY) is None
    with pytest.raises(Left):
        await stream.send(event("more"))


async def test_several_read_at_once() -> None:
    """Each from its own event on; one that leaves takes nothing from the others."""
    _, stream = begin()
    await stream.send(HEAD)
    await stream.send(event("1"))
    clients = [Client(stream), Client(stream, after=1), Client(stream)]
    await until(lambda: b"1" in clients[0].text)
    clients[2].leave()
    await clients[2].task
    await stream.send(event("2"))
    stream.finish()
    await asyncio.gather(*(client.task for client in clients))
    assert [client.whole for client in clients] == [True, True, False]
    assert clients[1].text == b"id: 2\ndata: 2\n\n"


async def test_a_server_that_ends() -> None:
    """Streams that nobody reads end at once, others when their readers have all, or have left."""
    streams, stream = begin()
    other = streams.begin(Asked(("me", "b"), b"", "openai", "req_2"), lambda: None)
    await stream.send(HEAD)
    client = Client(stream)
    await until(lambda: bool(stream._readers))
    with other.read_by("a reader that leaves", 0):
        pass
    streams.drain()
    assert streams.find(("me", "b")) is None
    assert (await other.receive())["type"] == "http.disconnect"
    await stream.send(event("1"))
    client.leave()
    await client.task
    assert (await stream.receive())["type"] == "http.disconnect"
    await streams.close()
    assert not len(streams)


async def test_a_part_does_not_end_as_the_whole_does() -> None:
    """A request that is given up at the end of its server: who reads it gets no end, so that it knows."""
    streams, stream = begin()
    await stream.send(HEAD)
    client = Client(stream)
    await stream.send(event("1"))
    await until(lambda: b"1" in client.text)
    await streams.close()
    stream.finish()
    await client.task
    assert not client.whole
    assert not stream.was_read


async def test_a_stream_that_is_stopped_ends_for_its_readers() -> None:
    """Its request is told to end with what it has; its id is free at once."""
    ended = asyncio.Event()
    streams, stream = begin(ended.set)
    await stream.send(HEAD)
    client = Client(stream)
    await until(lambda: bool(stream._readers))
    stream.stop()
    assert ended.is_set()
    assert streams.find(KEY) is None
    await stream.send(event("last"))
    stream.finish()
    await client.task
    assert client.whole
    assert b"last" in client.text


async def test_a_cut_stream_is_charged_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """As one request that goes on, with its tokens; whoever takes it up is a request that computes nothing."""
    key, digest = make_key()
    access = AccessOpts(keys=(KeyOpts(name="me", hash=digest, tokens_per_minute=1000),))
    async with gated(context={"n_ctx": 4096, "n_seq_max": 2}) as (runtime, model, gate):
        app = create_app(runtime, access=access)
        body = b'{"model": "m", "prompt": "hello", "stream": true, "max_tokens": 20, "ignore_eos": true}'
        headers = [(b"authorization", b"Bearer " + key.encode()), (b"x-conversation-id", b"a"), (b"host", b"localhost")]
        left, sent = asyncio.Event(), list[Any]()
        asked = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Any:
            if (message := next(asked, None)) is not None:
                return message
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/v1/completions", "raw_path": b"", "query_string": b"",
            "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "scheme": "http",
        }  # fmt: skip
        with caplog.at_level(logging.INFO, "erllama_py.http"):
            asking = asyncio.create_task(app(scope, receive, send))
            await until(lambda: model.queue_depth == 1)
            left.set()
            await asking
            assert not sent
            assert len(app.service.open) == 1
            gate.gate.set()
            await until(lambda: not len(app.service.open))
        assert model.counters.requests == 1
        lines = [record for record in caplog.records if "request" in record.getMessage()]
        assert len(lines) == 1
        stream = app.service.lasting.find((tenant_key(Tenant(name="me")), "a"))
        assert stream is not None
        assert stream.over
        assert stream.replay.last > 20
