"""The events of a stream that are kept so that its client can take it up again, and which stream has to go for others.

Pure. Events have numbers from 1 on, in the `id` of each: a client that says the last one it has gets those after it.
Every event is kept until all readers have had it, and beyond that as long as there is room, since what was sent to a
connection that breaks may never arrive.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

Place = Literal["kept", "ahead", "evicted"]
PIECE_BYTES = 64 << 10  # what a reader that is behind is given at a time


def split(data: bytes) -> Iterator[bytes]:
    """The server-sent events that a writer has put together, each with its empty line."""
    return (block + b"\n\n" for block in data.split(b"\n\n") if block)


def numbered(event: bytes, number: int) -> bytes:
    """An event with its number. What is a comment alone stays as it is."""
    return event if event.startswith(b":") else b"id: %d\n" % number + event


class Replay:
    """The newest events of one stream, of `most` bytes; a single one may be longer."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._events = list[bytes]()
        self._gone = 0  # of the list's beginning
        self.first = 1
        """The number of the oldest event that is kept, or will be."""
        self.nbytes = 0

    @property
    def last(self) -> int:
        """The number of the newest event, 0 before there is one."""
        return self.first + len(self._events) - self._gone - 1

    def add(self, event: bytes, given: int, spare: int | None = None) -> bool:
        """Keep an event, with its number. The oldest ones up to `given`, which all readers have had, go where there is
        no room: for it, or beyond the `spare` bytes that are left for all streams. False, with nothing changed, where
        that is not enough."""
        text = numbered(event, self.last + 1)
        excess = max(self.nbytes + len(text) - self._most, 0 if spare is None else len(text) - spare)
        goes, freed = self._evictable(excess, given)
        if freed < excess and freed < self.nbytes:
            return False
        self._evict(goes)
        self._events.append(text)
        self.nbytes += len(text)
        return True

    def shrink(self, excess: int, given: int) -> int:
        """Let go of the oldest events up to `given`, for about so many bytes; how many that were."""
        goes, freed = self._evictable(excess, given)
        self._evict(goes)
        return freed

    def _evictable(self, excess: int, given: int) -> tuple[int, int]:
        goes, freed = 0, 0
        while freed < excess and self.first + goes <= min(given, self.last):
            freed += len(self._events[self._gone + goes])
            goes += 1
        return goes, freed

    def place(self, after: int) -> Place:
        """Whether a reader that has all events up to `after` can be given the rest."""
        if after > self.last:
            return "ahead"
        return "kept" if after + 1 >= self.first else "evicted"

    def after(self, number: int) -> tuple[int, bytes]:
        """The events after this number, which are kept, about `PIECE_BYTES` of them: the last one's number, and their
        text, which is empty where there are none."""
        piece, size = list[bytes](), 0
        at = self._gone + number + 1 - self.first
        while at < len(self._events) and size < PIECE_BYTES:
            piece.append(self._events[at])
            size += len(piece[-1])
            at += 1
        return number + len(piece), b"".join(piece)

    def _evict(self, count: int) -> None:
        for at in range(self._gone, self._gone + count):
            self.nbytes -= len(self._events[at])
            self._events[at] = b""
        self._gone += count
        self.first += count
        if 2 * self._gone > len(self._events):
            del self._events[: self._gone]
            self._gone = 0


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream holds, as far as it decides which one goes."""

    key: tuple[str, str]
    """Its tenant, and its id."""
    nbytes: int
    over: bool
    """Whether the request is over, so that only its events are kept."""
    left_at: float | None
    """Since when nobody reads it; `None` while somebody does."""


def leavers(held: Sequence[Held], count: int) -> list[Held]:
    """So many streams, which go for others: those that are over first, then those that nobody reads, the longest left
    first of each. None that is being read goes, be that enough or not."""
    return sorted((one for one in held if one.left_at is not None), key=_rank)[: max(count, 0)]


def givers(held: Sequence[Held], totals: Mapping[str, int], excess: int, grows: str) -> list[Held]:
    """The streams that go so that one of the tenant `grows` has `excess` bytes more, of the tenants that have as much
    as this one, by `totals`: always of the one that has most, in the order of `leavers`. So no tenant takes from those
    that have less."""
    left, gone = dict(totals), list[Held]()
    idle = dict[str, list[Held]]()
    for one in sorted((one for one in held if one.left_at is not None), key=_rank, reverse=True):
        idle.setdefault(one.key[0], []).append(one)
    while excess > 0:
        having = [tenant for tenant, mine in idle.items() if mine and left[tenant] >= left.get(grows, 0)]
        if not having:
            break
        most = max(having, key=lambda tenant: left[tenant])
        gone.append(idle[most].pop())
        left[most] -= gone[-1].nbytes
        excess -= gone[-1].nbytes
    return gone


def _rank(one: Held) -> tuple[bool, float]:
    return not one.over, one.left_at or 0.0


def given_to_all(readers: Iterable[int], sent: int) -> int:
    """Up to which number every reader has been given the events; up to `sent` where there is no reader."""
    return min(readers, default=sent)


class Pace:
    """How long a reader may take: for all that is there `seconds`, then as long for all that has come meanwhile. So one
    that takes a little now and then does not keep a stream from going for as long as it likes."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._goal = 0
        self._until = 0.0

    def until(self, given: int, last: int, now: float) -> float:
        """When it has gone, unless it is given events up to its goal; `given` are those that it has been, `last` is the
        newest that is there."""
        if given >= self._goal:
            self._goal, self._until = last, now + self._seconds
        return self._until
