"""All streams of an application that can be taken up again, within the bounds of its settings, shared by tenants."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from erllama_py.serve.core.lasting import Asked, Key, LastingStream
from erllama_py.serve.core.problems import RETRY_SECONDS, Problem
from erllama_py.serve.core.replay import givers, leavers
from erllama_py.serve.core.settings import ServerOpts


class LastingStreams:
    """The streams of one application. Owns them, and the tasks of their requests; its bounds are those of settings."""

    def __init__(self, settings: ServerOpts) -> None:
        self.settings = settings
        self._streams: dict[Key, LastingStream] = {}
        self._waiting: dict[Key, LastingStream] = {}  # whose requests have not begun to answer, and may be refused
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
        return len(self._streams) + len(self._waiting)

    def find(self, key: Key, after: int | None = None) -> LastingStream | None:
        """The stream of an id. While a request waits that may take the place of one, that one is for those who have
        events of it, up to `after`; all others get what the request comes to."""
        found = self._streams.get(key) or self._also.get(key)
        return found if after and found is not None else self._waiting.get(key, found)

    def begin(self, asked: Asked, end: Callable[[], None]) -> LastingStream:
        """A new one; `end` ends its request with what it has. Those whose place it takes stay until it has begun: its
        request may be refused. Raises `Problem` where there will be no place."""
        mine = [one.held() for one in self._beside(asked.key).values()]
        excess = len(mine) + 1 - self.settings.max_resumable
        if len(leavers(mine, excess)) < excess:
            message = f"{len(mine)} streams of this client can be taken up, as many as this server keeps"
            raise Problem("overloaded", message, code="too_many_streams", retry_after=RETRY_SECONDS)
        settings = self.settings
        stream = LastingStream(asked, self, settings.resume_bytes, settings.resume_seconds, end)
        self._waiting[asked.key] = stream
        return stream

    def _beside(self, key: Key) -> dict[Key, LastingStream]:
        """The streams of its tenant that have or will have other ids."""
        known = {**self._streams, **self._waiting}
        return {other: one for other, one in known.items() if other[0] == key[0] and other != key}

    def begun(self, stream: LastingStream) -> None:
        """See `Owner`. Those whose place it takes go."""
        key = stream.asked.key
        if self._waiting.get(key) is not stream:
            return  # it was stopped
        if (before := self._streams.get(key)) is not None:
            before.leave()
        self._streams[key] = self._waiting.pop(key)
        beside = self._beside(key)
        excess = len(beside) + 1 - self.settings.max_resumable
        for one in leavers([one.held() for one in beside.values()], excess):
            beside[one.key].leave()

    def stop(self, key: Key) -> None:
        """End the stream of an id, and the one whose place it was to take."""
        while (stream := self.find(key)) is not None:
            stream.stop()

    def name(self, stream: LastingStream, key: Key) -> None:
        """Another id of it."""
        self._also[key] = stream

    def drain(self) -> None:
        """No request is let in any more."""
        for stream in self._all():
            stream.drain()

    async def close(self) -> None:
        """Forget all. Their requests are over when it returns."""
        for stream in self._all():
            stream.leave()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _all(self) -> list[LastingStream]:
        return [*self._streams.values(), *self._waiting.values()]

    def room_for(self, stream: LastingStream, more: int) -> int:
        """See `Owner`: others go for it, see `givers`, or let go of what their readers have had."""
        most, mine = self.settings.max_resume_bytes, stream.asked.key[0]
        if self.nbytes + more <= most:
            return most - self.nbytes
        idle = [one.held() for one in self._streams.values() if one.idle and one is not stream]
        for gone in givers(idle, self._of_tenants, self.nbytes + more - most, mine):
            self._streams[gone.key].leave()
        if self.nbytes + more > most:
            has = self._of_tenants[mine]
            richer = [one for one in self._streams.values() if self._of_tenants[one.asked.key[0]] > has]
            for one in sorted(richer, key=lambda one: one.replay.nbytes, reverse=True):
                if (excess := self.nbytes + more - most) <= 0:
                    break
                one.shrink(excess)
        return max(most - self.nbytes, 0)

    def grew(self, stream: LastingStream, more: int) -> None:
        """See `Owner`."""
        if self._streams.get(stream.asked.key) is stream:
            self.nbytes += more
            self._of_tenants[stream.asked.key[0]] += more

    def forget(self, stream: LastingStream) -> None:
        """See `Owner`."""
        if self._waiting.get(stream.asked.key) is stream:
            del self._waiting[stream.asked.key]
        if self._streams.get(stream.asked.key) is stream:
            self.grew(stream, -stream.replay.nbytes)
            del self._streams[stream.asked.key]
            if not self._of_tenants[stream.asked.key[0]]:
                del self._of_tenants[stream.asked.key[0]]
            if stream.expired and not stream.was_read:
                self.expired[stream.asked.api] += 1
        for key in [key for key, one in self._also.items() if one is stream]:
            del self._also[key]
