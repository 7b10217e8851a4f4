"""Requests that were never started, in order: a queue that is never changed, only replaced. Pure.

However long it is, adding one, taking one out and finding the next cost about the same: `Ordered` shares all but a
few dozen entries with the map that it was made from. A session is in the line with one request, the first of its turns;
so the next is found without looking at those that wait for their sessions.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from operator import itemgetter
from typing import Any, Generic, TypeVar

import msgspec

from erllama_py.scheduler.messages import SessionKey
from erllama_py.scheduler.stages import Waiting, rank

K = TypeVar("K", bound=Any)  # what has an order
V = TypeVar("V")

# Entries of a block of `Ordered`. A change copies one block and the list of blocks: with 64, two lists of 64 at 4,096.
BLOCK = 64
_key: Any = itemgetter(0)


class Ordered(msgspec.Struct, Generic[K, V], frozen=True):
    """A map in the order of its keys, as blocks of entries."""

    blocks: tuple[tuple[tuple[K, V], ...], ...] = ()
    length: int = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[V]:
        """The values, in the order of their keys."""
        return (value for block in self.blocks for _, value in block)

    def _find(self, key: K) -> tuple[int, int, bool]:
        """The block and the place in it where a key belongs, and whether it is there."""
        at = max(0, bisect_right(self.blocks, key, key=lambda block: block[0][0]) - 1)
        block = self.blocks[at] if self.blocks else ()
        place = bisect_left(block, key, key=_key)
        return at, place, place < len(block) and block[place][0] == key

    def get(self, key: K) -> V | None:
        """The value of a key, None if it is not there."""
        at, place, there = self._find(key)
        return self.blocks[at][place][1] if there else None

    def after(self, key: K) -> Iterator[V]:
        """The values from the first key on that is not below this one."""
        at, place, _ = self._find(key)
        for block in self.blocks[at:]:
            for _, value in block[place:]:
                yield value
            place = 0

    def put(self, key: K, value: V) -> Ordered[K, V]:
        """The same with this entry."""
        at, place, there = self._find(key)
        block = self.blocks[at] if self.blocks else ()
        block = (*block[:place], (key, value), *block[place + there :])
        parts = (block,) if len(block) <= BLOCK else (block[: BLOCK // 2], block[BLOCK // 2 :])
        return Ordered((*self.blocks[:at], *parts, *self.blocks[at + 1 :]), self.length + (not there))

    def without(self, key: K) -> Ordered[K, V]:
        """The same without this key."""
        at, place, there = self._find(key)
        if not there:
            return self
        block = (*self.blocks[at][:place], *self.blocks[at][place + 1 :])
        return Ordered((*self.blocks[:at], *((block,) if block else ()), *self.blocks[at + 1 :]), self.length - 1)


class Queue(msgspec.Struct, frozen=True):
    """See the module. Those in `outside` are too many, and wait for room; they are in the line all the same."""

    requests: Ordered[int, Waiting] = Ordered()
    line: Ordered[tuple[int, int], int] = Ordered()
    turns: Ordered[tuple[SessionKey, bool, int], int] = Ordered()
    outside: Ordered[tuple[int, int], int] = Ordered()
    ends: Ordered[tuple[float, int], int] = Ordered()  # when those outside are refused

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[Waiting]:
        """By id, so in the order of the calls."""
        return iter(self.requests)

    def get(self, request_id: int) -> Waiting | None:
        """The request with this id, if it is here."""
        return self.requests.get(request_id)

    def of_session(self, session: SessionKey) -> Iterator[Waiting]:
        """The turns of a session, the next one first: one that was given a sequence before, then by arrival."""
        for request_id in self.turns.after((session, False, -1)):
            waiting = self[request_id]
            if waiting.core.request.session != session:
                return
            yield waiting

    def in_line(self) -> Iterator[Waiting]:
        """Those that may be next, in order: of each session the first."""
        return (self[request_id] for request_id in self.line)

    def first_outside(self) -> Waiting | None:
        """The next that gets room."""
        return next((self[request_id] for request_id in self.outside), None)

    def first_end(self) -> Waiting | None:
        """The next that is refused, unless it gets room."""
        return next((self[request_id] for request_id in self.ends), None)

    def next_end(self) -> float | None:
        """When that is."""
        first = self.first_end()
        return None if first is None or first.room_by == math.inf else first.room_by

    def put(self, waiting: Waiting) -> Queue:
        """The queue with this request; one that is there already is replaced."""
        request = waiting.core.request
        queue = self.without(request.id)
        outside, ends = queue.outside, queue.ends
        if waiting.room_by is not None:
            outside, ends = outside.put(rank(waiting), request.id), ends.put((waiting.room_by, request.id), request.id)
        requests = queue.requests.put(request.id, waiting)
        if request.session is None:
            line = queue.line.put(rank(waiting), request.id)
            return Queue(requests, line, queue.turns, outside, ends)
        before = next(queue.of_session(request.session), None)
        turns = queue.turns.put(_turn(waiting, request.session), request.id)
        return Queue(requests, queue.line, turns, outside, ends)._lined_up(request.session, before)

    def without(self, request_id: int) -> Queue:
        """The queue without this request."""
        waiting = self.requests.get(request_id)
        if waiting is None:
            return self
        outside, ends, session = self.outside, self.ends, waiting.core.request.session
        if waiting.room_by is not None:
            outside, ends = outside.without(rank(waiting)), ends.without((waiting.room_by, request_id))
        requests = self.requests.without(request_id)
        if session is None:
            return Queue(requests, self.line.without(rank(waiting)), self.turns, outside, ends)
        before = next(self.of_session(session))
        turns = self.turns.without(_turn(waiting, session))
        return Queue(requests, self.line, turns, outside, ends)._lined_up(session, before)

    def _lined_up(self, session: SessionKey, before: Waiting | None) -> Queue:
        """With the first turn of a session in the line, in place of the one that was before."""
        first = next(self.of_session(session), None)
        line = self.line if before is None else self.line.without(rank(before))
        line = line if first is None else line.put(rank(first), first.core.request.id)
        return msgspec.structs.replace(self, line=line)

    def __getitem__(self, request_id: int) -> Waiting:
        waiting = self.requests.get(request_id)
        if waiting is None:
            raise KeyError(request_id)
        return waiting


def _turn(waiting: Waiting, session: SessionKey) -> tuple[SessionKey, bool, int]:
    return session, waiting.core.started_at is None, waiting.core.request.id
