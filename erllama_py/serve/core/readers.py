"""The clients of streams that last: one that begins a stream, and those that take it up.

Connection   the client's that asks; once its request begins a stream that lasts, it is the stream's first reader
Reader       sends a stream to one client, from any event on
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from erllama_py.serve.core.bodies import check_values
from erllama_py.serve.core.ending import Ending
from erllama_py.serve.core.lasting import Asked, Key, LastingStream
from erllama_py.serve.core.replay import Pace
from erllama_py.serve.core.service import Service, Tenant
from erllama_py.serve.core.settings import ServerOpts
from erllama_py.serve.core.streams import until_gone
from erllama_py.serve.core.taking_up import (
    AFTER,
    Known,
    after_of,
    begins,
    digest_of,
    name_of,
    no_stream,
    streams,
    unknown,
)
from erllama_py.serve.core.tenants import tenant_key

T = TypeVar("T")


class Asking(Protocol):
    """A request that asks for a stream: an exchange."""

    id: str
    route: str
    request: Request
    service: Service
    tenant: Tenant
    facts: dict[str, Any]
    lasting: LastingStream | None
    ending: Ending

    async def data(self) -> bytes:
        """Its body."""

    async def answer(self, work: Coroutine[Any, Any, T]) -> T:
        """What comes of work, while its client is there."""


class Reader:
    """Sends a stream that has begun, from the event after a number: an ASGI application. A client that has not read for
    `send_seconds` has gone, and so has one that has been behind for `resume_seconds`."""

    def __init__(self, stream: LastingStream, after: int, settings: ServerOpts) -> None:
        self._stream, self._at, self._patience = stream, after, settings.send_seconds
        self._pace = Pace(settings.resume_seconds)

    @property
    def has_all(self) -> bool:
        """Whether its client has all events that there will be."""
        return self._stream.over and self._at == self._stream.replay.last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all of it. Returns when it is over, or its client has left."""
        with self._stream.read_by(self, self._at) as got:
            await self.read(receive, send, got)

    async def read(self, receive: Receive, send: Send, got: Callable[[int], None]) -> None:
        """The same, for a reader that the stream knows."""
        tasks = [asyncio.ensure_future(self._send(send, got)), asyncio.ensure_future(until_gone(receive))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _send(self, send: Send, got: Callable[[int], None]) -> None:
        stream = self._stream
        assert stream.head is not None
        try:
            await self._put(send, stream.head)
            pulses = stream.pulses
            while True:
                news = stream.news
                reached, piece = stream.replay.after(self._at)
                if piece:
                    until = self._pace.until(self._at, stream.replay.last, asyncio.get_running_loop().time())
                    await self._put(send, {"type": "http.response.body", "body": piece, "more_body": True}, until)
                    self._at = reached
                    got(reached)
                elif stream.over:
                    break
                elif stream.pulses != pulses:
                    pulses = stream.pulses
                    await self._put(send, {"type": "http.response.body", "body": stream.heartbeat, "more_body": True})
                else:
                    await news.wait()
            if not stream.cut:  # else its connection breaks, so that no client takes a part for the whole
                await self._put(send, {"type": "http.response.body", "body": b"", "more_body": False})
                stream.was_read = True
        except (OSError, TimeoutError):
            return  # it has gone, and may come back

    async def _put(self, send: Send, message: Message, until: float = math.inf) -> None:
        async with asyncio.timeout_at(min(asyncio.get_running_loop().time() + self._patience, until)):
            await send(message)


class Connection:
    """A client's, in whose place a stream may be put."""

    def __init__(self, receive: Receive, send: Send, settings: ServerOpts) -> None:
        self._receive, self._send, self._settings = receive, send, settings
        self._stream: LastingStream | None = None
        self._lasts = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        """The work, which goes on after `serve` where its stream lasts."""

    def lasts(self, stream: LastingStream) -> None:
        """From now on its request speaks to the stream."""
        self._stream = stream
        self._lasts.set()

    async def receive(self) -> Message:
        """What the request hears."""
        return await (self._receive if self._stream is None else self._stream.receive)()

    async def send(self, message: Message) -> None:
        """What the request says. An answer that is no stream is its client's alone, and not kept."""
        stream = self._stream
        if stream is not None and message["type"] == "http.response.start" and not _is_stream(message):
            self._stream = None
            stream.leave()
        await (self._send if self._stream is None else self._stream.send)(message)

    async def serve(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
        """Answer the client with what the work says; in `tasks` a stream that lasts goes on without the client."""
        task = self.task = asyncio.create_task(self._work(work))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        lasts = asyncio.ensure_future(self._lasts.wait())
        try:
            await asyncio.wait({task, lasts}, return_when=asyncio.FIRST_COMPLETED)
            if (stream := self._stream) is not None:
                reader = Reader(stream, 0, self._settings)
                with stream.read_by(reader, 0) as got:  # while it waits for the beginning, too
                    if await self._begun(stream):
                        await reader.read(self._receive, self._send, got)
            if self._stream is None:
                await task
        finally:
            lasts.cancel()
            if self._stream is None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _work(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            if self._stream is not None:
                self._stream.finish()

    async def _begun(self, stream: LastingStream) -> bool:
        """Whether there is a stream to read, for a client that is still here."""
        gone, settled = asyncio.ensure_future(until_gone(self._receive)), asyncio.ensure_future(stream.settled())
        try:
            await asyncio.wait({gone, settled}, return_when=asyncio.FIRST_COMPLETED)
            return settled.done() and settled.result()
        finally:
            gone.cancel()
            settled.cancel()
            await asyncio.gather(gone, settled, return_exceptions=True)


def _is_stream(head: Message) -> bool:
    return Headers(raw=head["headers"]).get("content-type", "").startswith("text/event-stream")


async def take_up(exchange: Asking, connection: Connection, api: str) -> Reader | None:
    """What answers a request that takes up a stream. None for one that is to be answered by itself; where it asks for a
    stream, that lasts from now on. Raises `Problem`."""
    after = after_of(exchange.request.headers.get(AFTER))
    if not exchange.service.lasting.enabled:
        if after:
            raise unknown()  # its client has a part already: the whole would be doubled
        return None
    name = name_of(exchange.request.headers)
    data = await exchange.data()
    await check_values(data)
    if name is None or not streams(data):
        if after is not None:
            raise no_stream()
        return None
    key, digest = stream_key(exchange, name), digest_of(exchange.route, data)
    if (reader := await taken_up(exchange, key, digest, after)) is not None:
        return reader
    asked = Asked(key, digest, api, exchange.id)
    exchange.lasting = exchange.service.lasting.begin(asked, exchange.ending.stop)
    connection.lasts(exchange.lasting)
    return None


async def taken_up(
    exchange: Asking, key: Key, digest: bytes | None, after: int | None, param: str = AFTER
) -> Reader | None:
    """What sends the rest of a stream; None where a request begins it. Raises `Problem`; `param` is where
    the client said `after`."""
    lasting, waited = exchange.service.lasting, False
    while True:
        found = lasting.find(key, after)
        place = "kept" if found is None else found.replay.place(after or 0)
        known = None if found is None else Known(found.asked.digest, found.over, place)
        if begins(known, digest, after, param) or found is None:
            return None
        if waited:
            break
        waited = await exchange.answer(found.settled())
        after = after or 0  # it has joined this one, be it over by now
    lasting.resumed[found.asked.api] += 1
    exchange.facts |= {"takes_up": found.asked.request_id, "after": after or 0}
    return Reader(found, after or 0, exchange.service.settings)


def stream_key(exchange: Asking, name: str) -> Key:
    """The id of a stream, which is its tenant's alone."""
    return tenant_key(exchange.tenant), name


def name_stream(exchange: Asking, name: str) -> None:
    """Let the stream that answers a request be found by another name, too, where it lasts."""
    if exchange.lasting is not None:
        exchange.service.lasting.name(exchange.lasting, stream_key(exchange, name))
