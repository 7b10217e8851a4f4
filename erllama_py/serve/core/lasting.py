"""A stream that outlives its connection: its request goes on, and what it says is kept for clients that come back.

    waits ── its request begins to answer ──▶ begun ── its request is over ──▶ over
      │                                         │                                │
      └──────────── left: nobody may take it up any more, and `Left` ◀───────────┘

One that nobody reads for `resume_seconds` is left: its request is told that its client has gone, if it is not over.
`readers` has the other side, the clients; `lasting_streams` has all streams of an application.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import msgspec
from starlette.types import Message

from erllama_py.serve.core.replay import Held, Replay, given_to_all, split

Key = tuple[str, str]
"""The tenant, and the client's id for the stream."""


NUMBER_BYTES = 24  # of an event's number in its text, at most


class Left(OSError):
    """What is sent to a stream that nobody may take up any more."""


class Asked(msgspec.Struct, frozen=True):
    """A request whose stream lasts."""

    key: Key
    digest: bytes
    """Of its path and body: with another one the same id is another stream."""
    api: str
    request_id: str


class Owner(Protocol):
    """Who has a stream among others."""

    def begun(self, stream: LastingStream) -> None:
        """Its request begins to answer with a stream."""

    def room_for(self, stream: LastingStream, more: int) -> int:
        """Asked before it grows: how many bytes are left for all, once others have made room."""

    def grew(self, stream: LastingStream, more: int) -> None:
        """It has so many bytes more."""

    def forget(self, stream: LastingStream) -> None:
        """It cannot be taken up any more."""


class LastingStream:
    """One stream, of which `most` bytes are kept; `end` ends its request with what it has."""

    def __init__(self, asked: Asked, owner: Owner, most: int, seconds: float, end: Callable[[], None]) -> None:
        self.asked, self.end = asked, end
        self.replay = Replay(most)
        self.head: Message | None = None
        self.heartbeat = b""
        """What says that it lives, to be sent and not kept."""
        self.over = False
        """Its request is over."""
        self.cut = False
        """It was given up before its request was over, so its events are not all that there would be."""
        self.was_read = False
        """A reader had all of it."""
        self.expired = False
        """Nobody came back in time."""
        self.pulses = 0
        self.news = asyncio.Event()
        """Set at the next change; then there is another one."""
        self._owner, self._seconds = owner, seconds
        self._readers: dict[object, int] = {}
        self._sent = 0
        self._gone = asyncio.Event()
        self._settled: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._left_at: float | None = None
        self._draining = self._stopped = False
        self._wait_for_readers()
        self._left_at = None  # its client is about to read

    def held(self) -> Held:
        """What it holds now."""
        return Held(key=self.asked.key, nbytes=self.replay.nbytes, over=self.over, left_at=self._left_at)

    @property
    def idle(self) -> bool:
        """Whether nobody reads it."""
        return self._left_at is not None

    # --- the side of its request -----------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """What a request hears of its client: nothing until the stream may not be taken up any more."""
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Keep what is sent. Waits for readers that are behind; raises `Left` where nobody can have all of it."""
        if self._gone.is_set():
            raise Left
        if message["type"] == "http.response.start":
            self.head = message
            self._owner.begun(self)
            self._settle(True)
        for event in split(message.get("body", b"")):
            if event == self.heartbeat:
                self.pulses += 1
            else:
                await self._keep(event)
        self._tell()

    async def _keep(self, event: bytes) -> None:
        while True:
            spare, before = self._owner.room_for(self, len(event) + NUMBER_BYTES), self.replay.nbytes
            if self.replay.add(event, self._given(), spare):
                break
            if not self._readers or self._gone.is_set():
                self.leave()
                raise Left
            await self.news.wait()
        self._owner.grew(self, self.replay.nbytes - before)
        self._tell()

    def shrink(self, excess: int) -> None:
        """Let go of what all its readers have had, for about so many bytes."""
        self._owner.grew(self, -self.replay.shrink(excess, self._given()))

    def _given(self) -> int:
        return given_to_all(self._readers.values(), self._sent)

    def finish(self) -> None:
        """Its request is over. What it said is kept for those who come back."""
        self.over = True
        if self._gone.is_set() or self._stopped or self.head is None:
            self.leave()
        self._tell()

    # --- the side of its readers -----------------------------------------------------------------------------------

    async def settled(self) -> bool:
        """Wait until it begins; False for a request that is answered without a stream."""
        return await asyncio.shield(self._settled)

    @contextmanager
    def read_by(self, reader: object, after: int) -> Iterator[Callable[[int], None]]:
        """While it is read: what is called with the last number that was sent."""
        self._readers[reader] = after
        self._left_at = None
        self._stop_timer()

        def got(number: int) -> None:
            self._readers[reader] = number
            self._sent = max(self._sent, number)
            self._tell()

        try:
            yield got
        finally:
            del self._readers[reader]
            self._tell()
            if not self._readers and not self._gone.is_set():
                self._wait_for_readers()

    def drain(self) -> None:
        """Nobody is let in any more, so whoever is not here cannot come back."""
        self._draining = True
        if self._left_at is not None:
            self.leave()

    def stop(self) -> None:
        """Its client wants no more of it: its request ends with what it has, which those get who read it now."""
        self._stopped = True
        self._owner.forget(self)
        if self.over or not self._readers:
            self.leave()
        else:
            self.end()

    def leave(self) -> None:
        """Nobody may take it up any more: its request ends, if it is not over."""
        self._stop_timer()
        self.cut |= not self.over
        self._gone.set()
        self._settle(False)
        self._owner.forget(self)
        self._tell()

    def _wait_for_readers(self) -> None:
        loop = asyncio.get_running_loop()
        self._left_at = loop.time()
        if self._draining:
            self.leave()
        else:
            self._timer = loop.call_later(self._seconds, self._expire)

    def _expire(self) -> None:
        self.expired = True
        self.leave()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _settle(self, begun: bool) -> None:
        if not self._settled.done():
            self._settled.set_result(begun)

    def _tell(self) -> None:
        news, self.news = self.news, asyncio.Event()
        news.set()
