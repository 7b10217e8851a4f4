"""An ASGI application that is asked directly: its messages as they come, and a client that reads slowly or leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp, Message, Scope


class Asked:
    """One request that is under way."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self.left = asyncio.Event()
        self.reads = asyncio.Event()
        """Cleared, the client reads no more: what is sent to it waits."""
        self.reads.set()
        self._bodies = [b""]

    async def receive(self) -> Message:
        """Its body, which is empty, then that it has left."""
        if self._bodies:
            return {"type": "http.request", "body": self._bodies.pop(), "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """What the application sends."""
        await self.reads.wait()
        self.sent.put_nowait(message)

    async def body(self) -> str:
        """The next piece of the body."""
        message = await self.sent.get()
        while message["type"] != "http.response.body":
            message = await self.sent.get()
        text: str = message["body"].decode()
        return text


@asynccontextmanager
async def asked(app: ASGIApp, path: str, headers: Mapping[str, str]) -> AsyncIterator[tuple[Asked, asyncio.Task[None]]]:
    """A `GET` that goes on until the block is left, and its task."""
    names = [(name.encode(), value.encode()) for name, value in {"host": "localhost", **headers}.items()]
    scope: dict[str, Any] = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": names, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "scheme": "http",
        "http_version": "1.1", "root_path": "", "asgi": {"version": "3.0"},
    }  # fmt: skip
    one = Asked()
    task = asyncio.ensure_future(_run(app, scope, one))
    try:
        yield one, task
    finally:
        one.left.set()
        one.reads.set()
        await asyncio.wait({task})


async def _run(app: ASGIApp, scope: Scope, one: Asked) -> None:
    await app(scope, one.receive, one.send)
