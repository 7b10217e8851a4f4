"""Several prompts of one request, answered side by side as if they were one reply with many alternatives.

Whether the request is let in is decided for its first prompt; the others wait for room in the model's queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import msgspec

import erllama_py as erllama
from erllama_py.serve.core.streams import Events

Begin = Callable[[int], erllama.Stream]
Item = erllama.Event | BaseException | None  # None: one of them is over


class SideBySide(Events):
    """The events of `count` requests, each with `n` replies: reply i of prompt p has the index p·n + i."""

    def __init__(self, begin: Begin, count: int, n: int) -> None:
        self._begin, self._count, self._n = begin, count, n
        self._first = begin(0)
        self._items: asyncio.Queue[Item] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._entered: list[erllama.Stream] = []
        self._done: dict[int, erllama.Completion] = {}
        self._over = 0  # of how many all events were handed out
        self._cancelled = False

    def cancel(self) -> None:
        """See `Events`; those that wait for room end when they have it."""
        self._cancelled = True
        for stream in self._entered:
            stream.cancel()

    async def __aenter__(self) -> Self:
        await self._first.__aenter__()
        self._entered.append(self._first)
        self._tasks = [asyncio.create_task(self._read(place)) for place in range(self._count)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._first.__aexit__(kind, error, traceback)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> erllama.Event:
        while self._over < self._count:
            match await self._items.get():
                case BaseException() as error:
                    raise error
                case None:
                    self._over += 1
                case event:
                    return event
        if not self._tasks:
            raise StopAsyncIteration
        self._tasks = []
        return erllama.Done(together([self._done[place] for place in range(self._count)]))

    async def _read(self, place: int) -> None:
        try:
            if place == 0:
                await self._all(self._first, place)
                return
            async with self._begin(place) as stream:
                self._entered.append(stream)
                if self._cancelled:
                    stream.cancel()
                await self._all(stream, place)
        except Exception as error:
            self._items.put_nowait(error)

    async def _all(self, stream: erllama.Stream, place: int) -> None:
        async for event in stream:
            if isinstance(event, erllama.Done):
                self._done[place] = event.completion
                self._items.put_nowait(None)
                return
            moved = event if place == 0 else msgspec.structs.replace(event, index=place * self._n + event.index)
            self._items.put_nowait(moved)


def together(completions: Sequence[erllama.Completion]) -> erllama.Completion:
    """The completions of several prompts as one, with all their replies as its alternatives and all their counts."""
    first = completions[0]
    replies = tuple(one for completion in completions for one in completion.alternatives or (completion,))
    computed = sum(one.stats.prefill_tokens for one in completions)
    delta = erllama.CacheDelta(
        read=sum(one.cache_delta.read for one in completions), created=sum(one.cache_delta.created for one in replies)
    )
    return msgspec.structs.replace(
        first, alternatives=replies, prompt_tokens=sum(one.prompt_tokens for one in completions), cache_delta=delta,
        stats=msgspec.structs.replace(first.stats, prefill_tokens=computed),
    )  # fmt: skip
