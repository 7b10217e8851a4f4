"""`GET /erllama/live`: what the server does now, once as JSON or, by `Accept: text/event-stream`, as a stream.

Each event `snapshot` is a `Snapshot`. The stream ends with an event `end` when the server does; with `failed` where no
snapshot can be made; with `closed` where the key is no operator's any more.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.problems import shutting_down
from erllama_py.serve.core.service import Service, may_still_operate
from erllama_py.serve.core.streams import HEADERS, SSE, sse, until_gone
from erllama_py.serve.page.feed import Feed, FeedFailed, Watch

EVENT_STREAM = "text/event-stream"
HEARTBEAT = b": nothing new\n\n"


class Live:
    """The handler."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    async def __call__(self, exchange: Exchange) -> ASGIApp:
        """What the server does now: models, tree, cache, why the last prompts were not found. With
        `Accept: text/event-stream` once a second, until the client leaves."""
        exchange.check_operator()
        if exchange.service.open.ended.is_set():
            raise shutting_down()
        if EVENT_STREAM in exchange.request.headers.get("accept", ""):
            return _Stream(self._feed, exchange.service, exchange.request)
        return json_response(await self._feed.once())


class _Stream:
    """The response of one who watches. One that does not read for `send_seconds` has gone."""

    def __init__(self, feed: Feed, service: Service, request: HTTPConnection) -> None:
        self._feed, self._ended = feed, service.open.ended
        self._may_watch = partial(may_still_operate, service.access, request)
        self._heartbeat, self._patience = service.settings.heartbeat_seconds, service.settings.send_seconds
        self._begun = False  # the status is sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send snapshots until the client leaves, or the server ends."""
        async with self._feed.watch() as watch:  # where it is refused, nothing was sent
            work = (until_gone(receive), self._ended.wait(), self._snapshots(watch, send))
            gone, _, sending = tasks = [asyncio.ensure_future(one) for one in work]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            if self._begun and gone.cancelled() and sending.cancelled():  # it is the server that ends
                await self._last(send, b"end")

    async def _snapshots(self, watch: Watch, send: Send) -> None:
        headers = [(b"content-type", SSE.encode()), *HEADERS]
        with suppress(OSError, TimeoutError):  # it has gone
            await self._put(send, {"type": "http.response.start", "status": 200, "headers": headers})
            self._begun = True
            while True:
                try:
                    async with asyncio.timeout(self._heartbeat):
                        data = sse(await watch.next(), "snapshot")
                except TimeoutError:
                    data = HEARTBEAT
                except FeedFailed:
                    return await self._last(send, b"failed")
                if not self._may_watch():
                    return await self._last(send, b"closed")
                await self._put(send, {"type": "http.response.body", "body": data, "more_body": True})

    async def _last(self, send: Send, event: bytes) -> None:
        body = b"event: " + event + b"\ndata: {}\n\n"
        with suppress(OSError, TimeoutError):
            await self._put(send, {"type": "http.response.body", "body": body, "more_body": False})

    async def _put(self, send: Send, message: Message) -> None:
        async with asyncio.timeout(self._patience):
            await send(message)
