"""A stream whose refusal is known before anything is sent: so it has a status, as that of a whole reply.

A model takes a request at once and refuses it, where its queue is full or a turn of its session is under way, when its
actor gets to it. Until the first event, or for `REFUSAL_SECONDS` if none comes, nothing is sent: that delays no text.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import erllama_py as erllama
from erllama_py.serve.core.streams import Events

REFUSAL_SECONDS = 2.0  # a refusal takes some turns of the loop, which are slow beside hundreds of clients


class Admitted(Events):
    """The same stream; to enter it raises what its first event would."""

    def __init__(self, stream: Events) -> None:
        self._stream = stream
        self._first: asyncio.Future[erllama.Event] | None = None

    def cancel(self) -> None:
        """See `Events`."""
        self._stream.cancel()

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        first = self._first = asyncio.ensure_future(anext(self._stream))
        try:
            await asyncio.wait({first}, timeout=REFUSAL_SECONDS)
            if first.done():
                first.result()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        first, self._first = self._first, None
        if first is not None:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
        await self._stream.__aexit__(kind, error, traceback)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> erllama.Event:
        first, self._first = self._first, None
        return await (anext(self._stream) if first is None else first)
