"""WebSockets as uvicorn reads them, and how long any connection is kept whose client reads nothing.

Their messages are bounded and their clients pinged by uvicorn's own settings. Nothing is compressed: events are short,
and a message that swells when it is read would have to be bounded twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from erllama_py.serve.core.settings import ListenOpts

MOST_HEADERS, MOST_LINE = 128, 8192  # that `websockets` reads of a handshake

# uvicorn's of handshakes would have their queries, where some clients put their keys.
_complaints = logging.getLogger("uvicorn.error.websockets")
_complaints.setLevel(logging.WARNING)


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
        self.logger = _complaints
        super().connection_made(transport)
        self._unread = Unread(self.loop, transport, self.limits.send_seconds)

    async def send(self, message: Any) -> None:
        """See ASGI. A handshake that is refused is complete: uvicorn would log that it is not."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True

    def send_receive_event_to_app(self) -> None:
        """See uvicorn's. Nothing is taken of a client who has closed the connection in the same breath."""
        if self.conn.state not in (State.CLOSING, State.CLOSED):
            super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        """See uvicorn's. While its client does not read, pings are not answered, else they fill the memory: RFC 6455
        (5.5.3) asks for the answer to the last one alone."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._unread.stop()
        super().connection_lost(exc)


def bounded_socket(limits: ListenOpts) -> type[BoundedSocket]:
    """The protocol of a server with these limits."""
    return type("BoundedSocketOf", (BoundedSocket,), {"limits": limits})
