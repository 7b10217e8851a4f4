"""The events of a reply on their way to a client: server-sent events, or lines of JSON.

A writer says what an API makes of each event; `Streamed` sends it as it comes, shows that it lives while a long prompt
is read, and ends the request when its client has left or does not read any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self

import anyio
from starlette.types import Message, Receive, Scope, Send

import erllama_py as erllama
from erllama_py.serve.core.problems import Problem, problem_of

SSE = "text/event-stream; charset=utf-8"
NDJSON = "application/x-ndjson"
# For proxies: nothing is kept, and nothing is held back.
HEADERS = ((b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))
# What a cancelled request came to is there after a decode; an engine that hangs is not waited for.
CANCEL_SECONDS = 5.0


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


class Events(Protocol):
    """The events of a request, as a `Stream` gives them; the last one is `Done`."""

    def cancel(self) -> None:
        """Finish with what there is: the events go on to `Done`."""

    async def __aenter__(self) -> Self:
        """The model takes the request. Raises what it raises."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """The request is over, or given up."""

    def __aiter__(self) -> Self:
        """Itself."""

    async def __anext__(self) -> erllama.Event:
        """The next event."""


Keep = Callable[[erllama.Completion], Awaitable[None]]


class NotSent(Exception):
    """A server's way to say that the client has left."""


class Streamed:
    """The response of a stream that was entered: an ASGI application. It leaves the stream.

    What `keep` does with a complete reply is done before the client learns that it is complete.
    """

    def __init__(
        self, stream: Events, writer: Writer, observer: Observer, *, heartbeat: float, patience: float,
        headers: tuple[tuple[bytes, bytes], ...] = (), keep: Keep | None = None,
    ) -> None:  # fmt: skip
        self._stream, self._writer, self._observer, self._keep = stream, writer, observer, keep
        self._heartbeat, self._patience = heartbeat, patience
        self._headers = [(b"content-type", writer.media_type.encode()), *HEADERS, *headers]
        self._scope = anyio.CancelScope()
        self._sending = asyncio.Lock()
        self._sent_at = 0.0  # when the last send began
        self._begun = False  # the status is sent
        self._told = False  # the observer knows what became of it
        self._left = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all of it. Returns when the reply is complete, or its client has left."""
        self._sent_at = asyncio.get_running_loop().time()
        watching = [asyncio.create_task(self._watch(receive)), asyncio.create_task(self._live(send))]
        try:
            with self._scope:
                try:
                    await self._reply(send)
                except NotSent:
                    self._scope.cancel()
                    await anyio.lowlevel.checkpoint()
            if self._scope.cancelled_caught:
                self._observer.left()
        finally:
            for task in watching:
                task.cancel()
            with anyio.CancelScope(shield=True):
                await self.leave()
                await asyncio.gather(*watching, return_exceptions=True)

    async def leave(self) -> None:
        """End the request, if it is not over, and tell what it came to. Allowed twice."""
        if self._left:
            return
        self._left = True
        try:
            if not self._told:
                await self._cancelled()
        finally:
            await self._stream.__aexit__(None, None, None)

    async def _cancelled(self) -> None:
        """What was computed for nobody is in the metrics and in the log, too."""
        self._stream.cancel()
        with suppress(TimeoutError, erllama.ErllamaError):
            async with asyncio.timeout(CANCEL_SECONDS):
                async for event in self._stream:
                    if isinstance(event, erllama.Done):
                        self._observer.complete(event.completion)
                        break

    async def _reply(self, send: Send) -> None:
        await self._put(send, {"type": "http.response.start", "status": 200, "headers": self._headers})
        self._begun = True
        try:
            await self._body(send, self._writer.begin())
            last = await self._events(send)
        except NotSent:
            raise
        except Exception as error:
            self._told = True
            self._observer.failure(error)
            last = self._writer.failed(problem_of(error))
        await self._put(send, {"type": "http.response.body", "body": last, "more_body": False})

    async def _events(self, send: Send) -> bytes:
        """Send the events; gives what comes last."""
        async for event in self._stream:
            if isinstance(event, erllama.Done):
                self._told = True
                self._observer.complete(event.completion)
                if self._keep is not None:
                    await self._keep(event.completion)
                return self._writer.done(event.completion)
            if data := self._writer.event(event):
                if not isinstance(event, erllama.Progress):  # no part of the reply
                    self._observer.piece()
                await self._body(send, data)
        return b""  # not reached: a stream ends with `Done`, or raises

    async def _body(self, send: Send, data: bytes) -> None:
        if data:
            await self._put(send, {"type": "http.response.body", "body": data, "more_body": True})

    async def _put(self, send: Send, message: Message) -> None:
        async with self._sending:  # one at a time: what says that the stream lives may be on its way
            self._sent_at = asyncio.get_running_loop().time()
            try:
                await send(message)
            except OSError as error:
                raise NotSent from error

    async def _watch(self, receive: Receive) -> None:
        with suppress(OSError):
            await until_gone(receive)
        if not self._told:  # else its end is being sent, after which servers report that the client has left
            self._scope.cancel()

    async def _live(self, send: Send) -> None:
        """Where nothing was sent for a while, say so that the stream lives; where nothing is read, end it."""
        now = asyncio.get_running_loop().time
        while True:
            sending = self._sending.locked()
            due = self._sent_at + (self._patience if sending else self._heartbeat) - now()
            if due > 0.0:
                await asyncio.sleep(min(due, self._patience))
            elif sending:
                break
            elif self._begun and not self._told and self._writer.heartbeat:
                try:
                    async with asyncio.timeout(self._patience):
                        await self._body(send, self._writer.heartbeat)
                except (NotSent, TimeoutError):
                    break
            else:
                self._sent_at = now()
        self._scope.cancel()
