"""HTTP/1.1 as uvicorn reads it, with bounds of what a client can have held for it.

These are the bytes and the time of the head of a request, and of whatever is no body; how many connections there are;
and how long one is kept whose client reads nothing.

A request may offer to go on in another protocol, as Java's client does in each with HTTP/2 (`Upgrade: h2c`). Only
WebSockets are taken, where there are any; other offers are passed over, as RFC 9110 (7.8) allows, and the request is
answered.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from erllama_py.serve.core.settings import ListenOpts
from erllama_py.serve.running.sockets import Unread, readable

TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
WEBSOCKETS = b"/v1/responses"  # the end of the paths where there are any, whatever stands before it
OFFERS = (b"upgrade", b"http2-settings", b"connection")


class Parser:
    """What uvicorn asks of a parser. The parsers behind it stop where a request offers another protocol, and read no
    body of such a one: then the next parser reads its head without the offer, and goes on."""

    def __init__(self, connection: BoundedProtocol) -> None:
        self._connection = connection
        self._now = httptools.HttpRequestParser(connection)

    def feed_data(self, data: bytes) -> None:
        """See `httptools`."""
        rest = memoryview(data)
        while True:
            try:
                self._now.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self._connection.goes_on_as_websocket():
                    raise
                head = self._connection.head_without_offer()
                rest = rest[upgrade.args[0] :]
                self._now = httptools.HttpRequestParser(self._connection)
                try:
                    self._now.feed_data(head)
                except httptools.HttpParserUpgrade:  # CONNECT, which is for proxies
                    raise httptools.HttpParserError("no tunnel is opened here") from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._now, name)


class BoundedProtocol(HttpToolsProtocol):
    """One connection. It ends where the head of a request does not come, or does not end, and where nothing of what was
    sent is read."""

    limits: ListenOpts
    parser: Any

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._loose_bytes = 0  # that came since the last piece of a body, or the end of a head
        self._head_over = False
        self._answering = list[RequestResponseCycle]()  # several, where a client does not wait for answers
        self._upgraded = False
        self._unread = Unread(self.loop, transport, self.limits.send_seconds)
        super().connection_made(transport)
        self.parser = Parser(self)
        if len(self.connections) > self.limits.max_connections:
            transport.abort()
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`. Every request that is open learns of it, not the last one alone."""
        self._head_came()
        self._unread.stop()
        for cycle in self._answering:
            if not cycle.response_complete:
                cycle.disconnected = True
            cycle.message_event.set()
        self._answering.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._loose_bytes += len(data)
        super().data_received(data)
        if self._upgraded or self.transport.is_closing():
            return
        if self._loose_bytes > self.limits.max_head_bytes:
            if self._between:  # else an answer is being sent
                self.transport.write(TOO_LARGE)
            self.transport.close()
        elif self._between:
            self._expect_head()

    def on_message_begin(self) -> None:
        """See `httptools`."""
        self._head_over = False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """See `httptools`. What follows a body is heeded by nobody, and not kept."""
        if not self._head_over:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """See `httptools`."""
        self._head_came()
        self._loose_bytes, self._head_over = 0, True
        if self.parser.should_upgrade():
            self.scope["method"] = self.parser.get_method().decode("ascii")
            return
        super().on_headers_complete()
        self._answering = [cycle for cycle in (*self._answering, self.cycle) if not cycle.response_complete]

    def on_body(self, body: bytes) -> None:
        """See `httptools`. The body of a request that is answered already is read by nobody."""
        if not self._between:
            self._loose_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See `httptools`."""
        if self.parser.should_upgrade():
            return
        if not self._between:
            self._loose_bytes = 0
        super().on_message_complete()

    def goes_on_as_websocket(self) -> bool:
        """Whether the head that has come asks for a WebSocket where there is one."""
        names = {name for name, _ in self.headers}
        path = self.url.partition(b"?")[0].rstrip(b"/")
        asked = self.scope["method"] == "GET" and b"sec-websocket-key" in names and path.endswith(WEBSOCKETS)
        return asked and self._between and readable(self.url, self.headers) and self._should_upgrade()

    def handle_websocket_upgrade(self) -> None:
        """See uvicorn's: another protocol has the connection from now on."""
        self._upgraded = True
        self._unread.stop()
        super().handle_websocket_upgrade()

    def head_without_offer(self) -> bytes:
        """The head that has come, once more."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        head = [b"%s %s HTTP/%s\r\n" % (method, self.url, version)]
        head += [b"%s: %s\r\n" % header for header in self.headers if header[0] not in OFFERS]
        if any(name == b"connection" and b"close" in value.lower() for name, value in self.headers):
            head.append(b"connection: close\r\n")
        return b"".join([*head, b"\r\n"])

    @property
    def _between(self) -> bool:
        """Whether no request is being answered: what comes is the head of the next one, or belongs to none."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.limits.head_seconds, self._give_up)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


def bounded(limits: ListenOpts) -> type[BoundedProtocol]:
    """The protocol of a server with these limits."""
    return type("Bounded", (BoundedProtocol,), {"limits": limits})
