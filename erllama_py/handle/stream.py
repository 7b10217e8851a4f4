"""A request whose events are read as they come.

    async with model.stream(prompt) as events:
        async for event in events: ...

The last event is `Done`, also after `cancel`; `events.text` is the text alone. Leaving the block early cancels the
request. Events wait in memory for a slow reader; there are at most as many as the reply has tokens.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from erllama_py.actors import Reply
from erllama_py.errors import StreamMisused
from erllama_py.handle.caller import Caller
from erllama_py.handle.event_queue import EventQueue
from erllama_py.results import CallText, Completion, Done, EngineEvent, Event, TextDelta
from erllama_py.scheduler.messages import Feed

OUTSIDE = "a stream is used inside its block: async with model.stream(…) as events"


async def _keep_nothing(reply: Reply[Completion], error: BaseException | None) -> None:
    """Of a request that is no turn of a `Session`."""


@dataclass(frozen=True)
class Run:
    """The request of one stream: how it is begun, what it comes to, and what leaving it means."""

    caller: Caller
    begin: Callable[[Feed], Awaitable[tuple[int, Reply[Completion]]]]
    """Submits it with a `feed` for its events; its id, and the reply that comes at its end."""
    result: Callable[[Reply[Completion]], Awaitable[Completion]]
    left: Callable[[Reply[Completion], BaseException | None], Awaitable[None]] = _keep_nothing
    """The block was left, by this error if by any; a request that was not over has been cancelled."""


class Stream:
    """The events of one request: an async context manager, and inside it an async iterator, to be read once."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._events = EventQueue[Event]()
        self._request_id: int | None = None
        self._reply: Reply[Completion] | None = None
        self._over = False  # `Done` was handed out, or an error raised
        self._left = False  # the block was left

    @property
    def request_id(self) -> int:
        """The id that `cancel` takes, of all alternatives together; only inside the block."""
        return self._entered()

    def cancel(self) -> None:
        """Finish with what there is: the events go on to `Done`. No effect when the request is over."""
        self._run.caller.cancel(self._entered())

    def end_thinking(self) -> None:
        """Close the block of thinking that the reply is in, or is to begin in: the model goes on with its answer. No
        effect when it is in none, or the request is over; allowed twice."""
        self._run.caller.end_thinking(self._entered())

    def _entered(self) -> int:
        self._run.caller.check_loop()
        if self._request_id is None:
            raise StreamMisused(OUTSIDE)
        return self._request_id

    async def __aenter__(self) -> Self:
        if self._request_id is not None:
            raise StreamMisused("a stream can be entered once")
        self._request_id, self._reply = await self._run.begin(self._feed)
        self._reply.on_settled(self._events.wake)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        reply = self._reply
        assert reply is not None
        if not reply.settled:
            self.cancel()
        self._left = True
        self._events.clear()
        await self._run.left(reply, error)

    if not TYPE_CHECKING:  # checkers refuse these

        def __await__(self):
            """Raises `StreamMisused`: elsewhere a stream is what a call comes to. So do a `with` and a `for`."""
            raise StreamMisused(OUTSIDE)

        def __iter__(self):
            raise StreamMisused("its events come while the loop runs: async with model.stream(…) as events, async for")

        __enter__ = __await__

        def __exit__(self, *exc_info):
            """Is never reached."""

    def __aiter__(self) -> Self:
        self._entered()
        return self

    async def __anext__(self) -> Event:
        self._entered()
        if self._left:
            raise StreamMisused(OUTSIDE)
        reply = self._reply
        while not self._over and reply is not None:
            if self._events:
                return self._events.take()
            if reply.settled:
                self._over = True
                return Done(await self._run.result(reply))
            await self._events.changed()
        raise StopAsyncIteration

    @property
    def text(self) -> AsyncIterator[str]:
        """The text alone, as it comes: `async for text in events.text`."""
        return _Texts(self)

    def _feed(self, event: EngineEvent) -> None:
        assert not isinstance(event, CallText)  # it has been read
        self._events.put(event)


class _Texts(AsyncIterator[str]):
    def __init__(self, events: Stream) -> None:
        self._events = events

    async def __anext__(self) -> str:
        async for event in self._events:
            if isinstance(event, TextDelta):
                return event.text
        raise StopAsyncIteration
