"""What an engine is doing, in a page of memory that others may read: from another process too, and after its end.

One thread writes, with single stores into fields at fixed places; nothing is allocated and nobody is asked. The page is
a `bytearray` where the readers are in this process, and a mapping that two processes share where they are not: what
stands in it when the writer is killed is what it was doing.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable
from typing import Literal, get_args

import msgspec

from erllama_py.engine.pace import Pace
from erllama_py.engine.work import Work

Operation = Literal[
    "starting", "load", "idle", "between", "sampler", "prefill", "decode", "draw", "score", "capture", "restore",
    "fork", "free", "embed", "close", "ended",
]  # fmt: skip
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
_AT_REST = frozenset(("starting", "idle", "ended"))

PAGE_BYTES = 4096
MOST_REQUESTS = 64
_COUNTERS = struct.Struct("<ddqqdqqq")  # the pace, then `Work`
_AT_COUNTERS, _AT_DOING, _AT_FAILED = 0, 128, 1024
_HEAD = "<QdQQQ"  # beats, since, tokens, operation, how many ids follow
_BEATS = struct.Struct("<Q")
_DOING = [struct.Struct(f"{_HEAD}{count}q") for count in range(MOST_REQUESTS + 1)]
_NUMBERS = {operation: number for number, operation in enumerate(OPERATIONS)}
_DOING_BYTES = _DOING[-1].size


class Doing(msgspec.Struct, frozen=True):
    """The operation under way. `since` is of the machine's monotonic clock, which all its processes share."""

    operation: Operation = "starting"
    since: float = 0.0
    tokens: int = 0
    requests: tuple[int, ...] = ()  # those that it is about, the first `MOST_REQUESTS`
    beats: int = 0  # how many operations were begun so far, and parts of them that have told of it

    @property
    def is_work(self) -> bool:
        """Whether it has something to do, and so would begin another operation soon."""
        return self.operation not in _AT_REST


class Recorder:
    """See the module. `page` has `PAGE_BYTES`, zeros at first; who only reads makes one over the same page."""

    def __init__(self, page: bytearray | memoryview | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._page = bytearray(PAGE_BYTES) if page is None else page
        self._clock = clock
        self._beats = 0

    def __repr__(self) -> str:
        return f"<Recorder of {self.doing()}>"

    # --- written by the thread that works -----------------------------------------------------------------------

    def begin(self, operation: Operation, requests: Iterable[int] = (), tokens: int = 0) -> None:
        """An operation begins, and the last one has ended."""
        ids = tuple(requests)[:MOST_REQUESTS]
        self._beats += 1
        _DOING[len(ids)].pack_into(
            self._page, _AT_DOING, self._beats, self._clock(), tokens, _NUMBERS[operation], len(ids), *ids
        )

    def beat(self) -> None:
        """The operation under way gets on."""
        self._beats += 1
        _BEATS.pack_into(self._page, _AT_DOING, self._beats)

    def count(self, pace: Pace, work: Work) -> None:
        """What it has computed so far, and how fast."""
        _COUNTERS.pack_into(
            self._page, _AT_COUNTERS, pace.slowest, pace.per_token, work.decodes, work.tokens, work.seconds,
            work.prompt_tokens, work.generated, work.parks,
        )  # fmt: skip

    def fail(self) -> None:
        """The operation under way has raised: it is kept beside those that follow, which tidy up."""
        self._page[_AT_FAILED : _AT_FAILED + _DOING_BYTES] = self._page[_AT_DOING : _AT_DOING + _DOING_BYTES]

    # --- read by all --------------------------------------------------------------------------------------------

    def doing(self) -> Doing:
        """The operation under way."""
        return _doing(self._settled(_AT_DOING, _DOING_BYTES))

    def last(self) -> Doing:
        """The operation that has raised, or else the one under way."""
        failed = _doing(self._settled(_AT_FAILED, _DOING_BYTES))
        return failed if failed.beats else self.doing()

    def pace(self) -> Pace:
        """What its recent decodes took."""
        return Pace(*_COUNTERS.unpack(self._settled(_AT_COUNTERS, _COUNTERS.size))[:2])

    def copy_work(self, work: Work) -> None:
        """Set `work` to what was counted so far."""
        numbers = _COUNTERS.unpack(self._settled(_AT_COUNTERS, _COUNTERS.size))[2:]
        for name, number in zip(Work.__struct_fields__, numbers, strict=True):
            setattr(work, name, number)

    def keep(self) -> None:
        """Let go of the page, and keep what stands in it now."""
        self._page = bytearray(self._page)

    def _settled(self, start: int, size: int) -> bytes:
        """A part of the page as it was at one moment: what is being written differs between two looks."""
        part = bytes(self._page[start : start + size])
        while (again := bytes(self._page[start : start + size])) != part:
            part = again
        return part


def _doing(part: bytes) -> Doing:
    beats, since, tokens, number, count = struct.unpack_from(_HEAD, part)
    count, number = min(count, MOST_REQUESTS), min(number, len(OPERATIONS) - 1)
    return Doing(OPERATIONS[number], since, tokens, struct.unpack_from(f"<{count}q", part, _DOING[0].size), beats)
