"""Streams over real sockets that are cut at random bytes: taken up again, they are whole, in each API's shape."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
from helpers.gated import Gated
from helpers.listening import listening
from helpers.runtime import until
from helpers.served import Served, served

pytestmark = pytest.mark.anyio
SAID = [{"role": "user", "content": "hello"}]
REPLY = {"temperature": 0, "ignore_eos": True}
PATHS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": SAID, "max_tokens": 60, **REPLY}),
    "completions": ("/v1/completions", {"prompt": "hello", "max_tokens": 60, **REPLY}),
    "messages": ("/v1/messages", {"messages": SAID, "max_tokens": 60, "temperature": 0}),
    "responses": ("/v1/responses", {"input": "hello", "max_output_tokens": 60, "temperature": 0}),
}


class At(NamedTuple):
    """An application, and where its server listens."""

    served: Served
    url: str

    async def get(self, head: str, body: bytes = b"", most: int | None = None) -> tuple[bytes, bytes]:
        """The head and the body of an answer, of which a client reads so many bytes and then resets the connection."""
        host, port = self.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(f"{head}\r\nhost: localhost\r\nconnection: close\r\n".encode())
            writer.write(f"content-length: {len(body)}\r\n\r\n".encode() + body)
            begun = await reader.readuntil(b"\r\n\r\n")
            return begun, await self._chunks(reader, most)
        finally:
            writer.transport.abort()

    async def _chunks(self, reader: asyncio.StreamReader, most: int | None) -> bytes:
        text = b""
        while most is None or len(text) < most:
            size = int(await reader.readline(), 16)
            if size == 0:
                break
            text += (await reader.readexactly(size + 2))[:-2]
        return text if most is None else text[:most]


@asynccontextmanager
async def at(make: Any = None, **settings: Any) -> AsyncIterator[At]:
    """A server over a stub, or what `make` makes in its place."""
    async with served(settings=settings, make=make) as one, listening(one.app) as url, asyncio.timeout(60):
        yield At(one, url)


def head_of(path: str, name: str, after: int | None = None) -> str:
    """The first lines of a request."""
    more = "" if after is None else f"\r\nlast-event-id: {after}"
    return f"POST {path} HTTP/1.1\r\nx-conversation-id: {name}{more}"


def whole_events(text: bytes) -> bytes:
    """What of it ends an event: the rest is lost to a client whose connection breaks."""
    return text[: text.rfind(b"\n\n") + 2] if b"\n\n" in text else b""


def last_id(text: bytes) -> int:
    """The number of the last event that a client has."""
    ids = [int(line[4:]) for line in text.splitlines() if line.startswith(b"id: ")]
    assert ids == list(range(1, len(ids) + 1))
    return len(ids)


@pytest.mark.slow
@pytest.mark.parametrize("api", PATHS)
async def test_a_stream_that_is_cut_ten_times_is_whole(api: str) -> None:
    """At random bytes, in the middle of events too: byte for byte what a reader has who was never cut."""
    path, body = PATHS[api]
    data, pick = json.dumps({"model": "tiny", "stream": True, **body}).encode(), random.Random(api)
    async with at() as one:
        text, cuts = b"", 0
        while cuts < 10:
            after = last_id(text) if cuts else None
            _, more = await one.get(head_of(path, "a", after), data, most=pick.randrange(1, 900))
            text, cuts = text + whole_events(more), cuts + 1
        _, more = await one.get(head_of(path, "a", last_id(text)), data)
        text += more
        _, uncut = await one.get("GET /v1/stream/a HTTP/1.1")
        assert text == uncut
        assert last_id(text) > 50
        # One request was computed, charged and logged, whatever its connections.
        assert one.served.model.counters.requests == 1
        assert one.served.app.service.lasting.resumed.total() == 11


@pytest.mark.slow
async def test_nothing_is_left_when_its_time_is_over() -> None:
    """Neither of a stream that goes on, nor of one that is over: no task, no event, no request."""
    path, body = PATHS["chat"]
    data, gate = json.dumps({"model": "tiny", "stream": True, **body, "max_tokens": 1500}).encode(), Gated()
    gate.gate.set()
    async with at(gate.make, resume_seconds=0.1) as one:
        lasting, service = one.served.app.service.lasting, one.served.app.service
        await one.get(head_of(path, "b"), json.dumps({**json.loads(data), "max_tokens": 5}).encode())
        gate.shut_after = len(gate.parts) + 5  # it goes on, however fast it could be over
        await one.get(head_of(path, "a"), data, most=10)
        await until(lambda: not len(lasting) and not lasting.tasks and not len(service.open))
        assert lasting.nbytes == 0
        assert lasting.expired == {"openai": 1}
        assert one.served.model.queue_depth == 0
