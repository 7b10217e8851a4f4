"""HTTP/1.1 as uvicorn reads it, with bounds of the head of a request: its bytes, its time, and how many connections."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from erllama_py.serve.core.settings import ListenOpts

TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class BoundedProtocol(HttpToolsProtocol):
    """One connection. It ends where the head of a request does not come, or does not end."""

    limits: ListenOpts

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            transport.abort()
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing() or not self._between:
            return
        if self._head_bytes > self.limits.max_head_bytes:
            self.transport.write(TOO_LARGE)
            self.transport.close()
        else:
            self._expect_head()

    def on_headers_complete(self) -> None:
        """See `httptools`."""
        self._head_came()
        self._head_bytes = 0
        super().on_headers_complete()

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
