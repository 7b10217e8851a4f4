"""WebSockets as uvicorn reads them, and how long any connection is kept whose client reads nothing.

Their messages are bounded and their clients pinged by uvicorn's own settings. Nothing is compressed: events are short,
and a message that swells when it is read would have to be bounded twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from erllama_py.serve.core.settings import ListenOpts

MOST_HEADERS, MOST_LINE = 128, 8192  # that `websockets` reads of a handshake


def readable(url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a handshake is within the bounds of the library that answers it."""
    longest = max((len(name) + len(value) for name, value in headers), default=0)
    return max(len(url), longest) + 64 < MOST_LINE and len(headers) <= MOST_HEADERS


class Unread:
    """Ends a connection of whose bytes nothing was read for so many seconds. One that is closed, by us or for being
    idle, still waits until all is sent: for ever, where its client is there and does not read."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, seconds: float) -> None:
        self._loop, self._transport, self._seconds = loop, transport, seconds
        self._bytes = 0
        self._timer = loop.call_later(seconds, self._look)

    def stop(self) -> None:
        """It is closed, or looked at by another. Allowed twice."""
        self._timer.cancel()

    def _look(self) -> None:
        unread = self._transport.get_write_buffer_size()
        if unread and unread == self._bytes:
            self._transport.abort()
            return
        self._bytes = unread
        self._timer = self._loop.call_later(self._seconds, self._look)


class BoundedSocket(WebSocketsSansIOProtocol):
    """One WebSocket."""

    limits: ListenOpts

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._unread = Unread(self.loop, transport, self.limits.send_seconds)

    async def send(self, message: Any) -> None:
        """See ASGI. A handshake that is refused is complete: uvicorn would log that it is not."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._unread.stop()
        super().connection_lost(exc)


def bounded_socket(limits: ListenOpts) -> type[BoundedSocket]:
    """The protocol of a server with these limits."""
    return type("BoundedSocketOf", (BoundedSocket,), {"limits": limits})
