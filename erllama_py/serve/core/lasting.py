"""Streams that outlive their connections: their requests go on, and what they say is kept for clients that come back.

A stream that nobody reads for `resume_seconds` goes: its request is told that its client has left, if it is not over.
`readers` has the other side: the clients.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from starlette.types import Message

from erllama_py.serve.core.problems import RETRY_SECONDS, Problem
from erllama_py.serve.core.replay import Held, Replay, given_to_all, givers, leavers, split
from erllama_py.serve.core.settings import ServerOpts

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


class LastingStream:
    """One stream. `room` is asked before it grows, and says how many bytes are left for all; `grew` is told by how many
    it has; `forget` when it cannot be taken up any more."""

    def __init__(
        self, asked: Asked, most: int, seconds: float, *, end: Callable[[], None],
        room: Callable[[LastingStream, int], int], grew: Callable[[LastingStream, int], None],
        forget: Callable[[LastingStream], None],
    ) -> None:  # fmt: skip
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
        self._seconds, self._room, self._grew, self._forget = seconds, room, grew, forget
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
            self._settle(True)
        for event in split(message.get("body", b"")):
            if event == self.heartbeat:
                self.pulses += 1
            else:
                await self._keep(event)
        self._tell()

    async def _keep(self, event: bytes) -> None:
        while True:
            spare, before = self._room(self, len(event) + NUMBER_BYTES), self.replay.nbytes
            if self.replay.add(event, self._given(), spare):
                break
            if not self._readers or self._gone.is_set():
                self.leave()
                raise Left
            await self.news.wait()
        self._grew(self, self.replay.nbytes - before)
        self._tell()

    def shrink(self, excess: int) -> None:
        """Let go of what all its readers have had, for about so many bytes."""
        self._grew(self, -self.replay.shrink(excess, self._given()))

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
        self._forget(self)
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
        self._forget(self)
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


class LastingStreams:
    """The streams of one application. Owns them, and the tasks of their requests; its bounds are those of settings."""

    def __init__(self, settings: ServerOpts) -> None:
        self.settings = settings
        self._streams: dict[Key, LastingStream] = {}
        self._of_tenants: Counter[str] = Counter()
        self.nbytes = 0
        """What is kept."""
        self._also: dict[Key, LastingStream] = {}
        self.tasks = set[asyncio.Task[None]]()
        self.resumed: Counter[str] = Counter()
        """Streams that were taken up, by API."""
        self.expired: Counter[str] = Counter()
        """Streams whose client did not come back for the rest, by API."""

    @property
    def enabled(self) -> bool:
        """Whether streams can be taken up at all."""
        return self.settings.resume_seconds > 0.0

    def __len__(self) -> int:
        return len(self._streams)

    def find(self, key: Key) -> LastingStream | None:
        """The stream of an id."""
        return self._streams.get(key) or self._also.get(key)

    def begin(self, asked: Asked, end: Callable[[], None]) -> LastingStream:
        """A new one, in place of the one of its id; `end` ends its request with what it has. Raises `Problem`."""
        if (before := self._streams.get(asked.key)) is not None:
            before.leave()
        mine = [one.held() for one in self._streams.values() if one.asked.key[0] == asked.key[0]]
        excess = len(mine) + 1 - self.settings.max_resumable
        if len(gone := leavers(mine, excess)) < excess:
            message = f"{len(mine)} streams of this client can be taken up, as many as this server keeps"
            raise Problem("overloaded", message, code="too_many_streams", retry_after=RETRY_SECONDS)
        self._drop(gone)
        stream = LastingStream(
            asked, self.settings.resume_bytes, self.settings.resume_seconds, end=end, room=self._make_room,
            grew=self._count, forget=self._forget,
        )  # fmt: skip
        self._streams[asked.key] = stream
        return stream

    def name(self, stream: LastingStream, key: Key) -> None:
        """Another id of it."""
        self._also[key] = stream

    def drain(self) -> None:
        """No request is let in any more."""
        for stream in list(self._streams.values()):
            stream.drain()

    async def close(self) -> None:
        """Forget all. Their requests are over when it returns."""
        for stream in list(self._streams.values()):
            stream.leave()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _make_room(self, stream: LastingStream, more: int) -> int:
        """Make others go for it, see `givers`, or let go of what their readers have had; how many bytes are left."""
        most, mine = self.settings.max_resume_bytes, stream.asked.key[0]
        if self.nbytes + more <= most:
            return most - self.nbytes
        idle = [one.held() for one in self._streams.values() if one.idle and one is not stream]
        self._drop(givers(idle, self._of_tenants, self.nbytes + more - most, mine))
        if self.nbytes + more > most:
            has = self._of_tenants[mine]
            richer = [one for one in self._streams.values() if self._of_tenants[one.asked.key[0]] > has]
            for one in sorted(richer, key=lambda one: one.replay.nbytes, reverse=True):
                if (excess := self.nbytes + more - most) <= 0:
                    break
                one.shrink(excess)
        return max(most - self.nbytes, 0)

    def _count(self, stream: LastingStream, more: int) -> None:
        if self._streams.get(stream.asked.key) is stream:
            self.nbytes += more
            self._of_tenants[stream.asked.key[0]] += more

    def _drop(self, gone: list[Held]) -> None:
        for one in gone:
            self._streams[one.key].leave()

    def _forget(self, stream: LastingStream) -> None:
        if self._streams.get(stream.asked.key) is stream:
            self._count(stream, -stream.replay.nbytes)
            del self._streams[stream.asked.key]
            if not self._of_tenants[stream.asked.key[0]]:
                del self._of_tenants[stream.asked.key[0]]
            if stream.expired and not stream.was_read:
                self.expired[stream.asked.api] += 1
        for key in [key for key, one in self._also.items() if one is stream]:
            del self._also[key]
