"""The events of a reply on their way to a client: server-sent events, or lines of JSON.

A writer says what an API makes of each event; `Streamed` sends it as it comes, shows that it lives while a long prompt
is read, and ends the request when its client has left or does not read any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

import anyio
from starlette.types import Receive, Scope, Send

import erllama_py as erllama
from erllama_py.serve.core.problems import Problem, problem_of

SSE = "text/event-stream; charset=utf-8"
NDJSON = "application/x-ndjson"
# For proxies: nothing is kept, and nothing is held back.
HEADERS = ((b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))


class Writer(Protocol):
    """What an API's stream consists of. Every method gives the bytes to send, which may be none."""

    media_type: str
    heartbeat: bytes
    """What says that the stream lives; empty where the API has nothing for it."""

    def begin(self) -> bytes:
        """Before the first event."""

    def event(self, event: erllama.Event) -> bytes:
        """For one event other than `Done`."""

    def done(self, completion: erllama.Completion) -> bytes:
        """The end of a complete reply."""

    def failed(self, problem: Problem) -> bytes:
        """The end of one that fails after it has begun: there is no status any more."""


def sse(data: bytes, event: str | None = None) -> bytes:
    """One server-sent event, as the WHATWG's HTML standard has it; `data` has no line breaks, as JSON."""
    return b"data: " + data + b"\n\n" if event is None else b"event: %s\ndata: %s\n\n" % (event.encode(), data)


async def until_gone(receive: Receive) -> None:
    """Returns when the client has left; to be used once its body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Observer(Protocol):
    """Who is told what becomes of a stream."""

    def piece(self) -> None:
        """A piece of the reply came."""

    def complete(self, completion: erllama.Completion) -> None:
        """All of it came."""

    def failure(self, error: BaseException) -> None:
        """It failed."""

    def left(self) -> None:
        """Its client has left, or does not read."""


Keep = Callable[[erllama.Completion], Awaitable[None]]


class Streamed:
    """The response of a stream that was entered: an ASGI application. It leaves the stream.

    What `keep` does with a complete reply is done before the client learns that it is complete.
    """

    def __init__(
        self, stream: erllama.Stream, writer: Writer, observer: Observer, *, heartbeat: float, patience: float,
        headers: tuple[tuple[bytes, bytes], ...] = (), keep: Keep | None = None,
    ) -> None:  # fmt: skip
        self._stream, self._writer, self._observer, self._keep = stream, writer, observer, keep
        self._heartbeat, self._patience = heartbeat, patience
        self._headers = [(b"content-type", writer.media_type.encode()), *HEADERS, *headers]
        self._scope = anyio.CancelScope()
        self._sent_at = 0.0
        self._sending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all of it. Returns when the reply is complete, or its client has left."""
        watching = [asyncio.create_task(self._watch(receive)), asyncio.create_task(self._live(send))]
        try:
            with self._scope:
                try:
                    await self._reply(send)
                except OSError:  # servers may say so that the client has left
                    self._scope.cancel()
                    await anyio.lowlevel.checkpoint()
            if self._scope.cancelled_caught:
                self._observer.left()
        finally:
            for task in watching:
                task.cancel()
            with anyio.CancelScope(shield=True):
                await self._stream.__aexit__(None, None, None)

    async def _reply(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        await self._put(send, self._writer.begin())
        try:
            last = b""
            async for event in self._stream:
                if isinstance(event, erllama.Done):
                    self._observer.complete(event.completion)
                    if self._keep is not None:
                        await self._keep(event.completion)
                    last = self._writer.done(event.completion)
                    break
                if data := self._writer.event(event):
                    if not isinstance(event, erllama.Progress):  # no part of the reply
                        self._observer.piece()
                    await self._put(send, data)
        except Exception as error:
            self._observer.failure(error)
            last = self._writer.failed(problem_of(error))
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _put(self, send: Send, data: bytes) -> None:
        if data:
            self._sending, self._sent_at = True, asyncio.get_running_loop().time()
            await send({"type": "http.response.body", "body": data, "more_body": True})
            self._sending = False

    async def _watch(self, receive: Receive) -> None:
        await until_gone(receive)
        self._scope.cancel()

    async def _live(self, send: Send) -> None:
        """Where nothing was sent for a while, say so that the stream lives; where nothing is read, end it."""
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(min(self._heartbeat, self._patience))
            quiet = now() - self._sent_at
            if self._sending and quiet >= self._patience:
                self._scope.cancel()
            elif not self._sending and quiet >= self._heartbeat and self._writer.heartbeat:
                with suppress(OSError):
                    await self._put(send, self._writer.heartbeat)
