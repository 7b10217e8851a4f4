"""What all tiers have in common: the actor around a store of rows.

Owns the tier's list of its rows, and its queue: rows that are to be stored and removed, the only place where they wait
between the engine and the file. One task does what is queued, in order, so parents are stored before children,
rows are removed before others are written that need their room, and nothing else changes the store meanwhile. A job
that fails does not affect later ones. What the queue may hold is bounded by the buffers that rows of models lie in, and
by the reservations of the cache. Reading does not wait for it. A subclass says how rows are put, read and removed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import msgspec

from erllama_py.actors import Actor, ActorError, Background, Exit, MailboxClosed, NameNotFound, Reply
from erllama_py.errors import TierError, TierFailed, TierStuck
from erllama_py.tiers import messages
from erllama_py.tiers.messages import CACHE, RowBytes, StoredRow
from erllama_py.watch.log import get_logger

# Rows in one report: the cache takes one in about a millisecond, also while other threads read headers.
BATCH = 64
# How long callers wait for one read, or for one change in the queue; as long as for a stop.
STUCK_SECONDS = 60.0
# A read that takes longer has met a device that hangs: no other read is begun until it has ended, so that not each
# request waits for it anew, and the reading threads are not all taken.
HUNG_SECONDS = 10.0


class _Watch:
    """While something takes too long, say so and fail the replies that wait for it, again and again; the work itself
    goes on.

    When it is over it is freed at once, for it refers to replies, and they to the rows that were read.
    """

    def __init__(
        self, tier: str, what: str, waiting: Callable[[], Iterable[Reply[Any] | None]], say: Callable[[str], None]
    ) -> None:
        self._tier, self._what, self._waiting, self._say = tier, what, waiting, say
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self.said = False
        self._timer = self._loop.call_later(STUCK_SECONDS, self._tell)

    def over(self, *_: object) -> None:
        self._timer.cancel()

    def _tell(self) -> None:
        self._timer = self._loop.call_later(STUCK_SECONDS, self._tell)
        seconds = self._loop.time() - self._began
        problem = f"{self._what} has not ended for {seconds:.3g} s"
        self._say(problem)
        self.said = True
        for reply in self._waiting():
            if reply is not None:
                reply.fail(TierStuck(self._tier, problem, seconds))


class TierActor(Actor[messages.TierMessage]):
    kind: ClassVar[str] = "tier"

    def __init__(self, tier: str, tier_kind: str, quota_bytes: int) -> None:
        self.tier = tier
        self.tier_kind = tier_kind
        self.quota_bytes = quota_bytes
        self.rows: dict[bytes, StoredRow] = {}
        self.tasks = Background(tier)
        self._queue: deque[tuple[messages.Change, Reply[Any] | None]] = deque()
        self._reads: dict[asyncio.Task[None], float] = {}  # under way, since when; the oldest first

    async def init(self) -> None:
        self.introduce()

    async def handle(self, message: messages.TierMessage, reply: Reply[Any] | None) -> None:
        match message:
            case messages.Put() | messages.Delete() | messages.Sweep() | messages.Flush():
                self._queue.append((message, reply))
                if len(self._queue) == 1:
                    self.tasks.start(self._work())
            case messages.Get(key):
                self._read(key, reply)
            case messages.Touch():
                self.touch(message)
            case messages.Introduce():
                self.introduce()

    async def terminate(self, exit: Exit) -> None:
        while len(self._queue) > 1:  # one that has begun may be past the point where it can be cancelled
            self._queue.pop()
        await self.tasks.stop()
        self._queue.clear()  # whatever keeps this actor's error keeps the actor too: not the buffers

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.tier!r}: {len(self.rows)} rows, {len(self._queue)} changes queued>"

    # --- reading ---------------------------------------------------------------------------------------------

    def _read(self, key: bytes, reply: Reply[Any] | None) -> None:
        """Read a row beside the queue; not behind a read that hangs."""
        now = asyncio.get_running_loop().time()
        seconds = now - next(iter(self._reads.values()), now)
        if seconds > HUNG_SECONDS:
            if reply is not None:
                reply.fail(TierStuck(self.tier, f"a read has not ended for {seconds:.3g} s", seconds))
            return
        reading = self.tasks.answer(reply, self.get(key))
        self._reads[reading] = now
        reading.add_done_callback(self._reads.pop)
        reading.add_done_callback(_Watch(self.tier, "a read", lambda: (reply,), lambda problem: None).over)

    # --- the queue -------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Do what is queued, and end with the last of it."""
        waited = False
        while self._queue:
            watch = _Watch(self.tier, "a write or removal", lambda: [reply for _, reply in self._queue], self.hangs)
            try:
                await self._settle(*self._queue[0], waited)
            finally:
                watch.over()
                if watch.said:
                    self.hangs(None)
            # Only now, so that no message that comes meanwhile begins a second task; and before waiting for the next
            # row, so that the buffer of this one is free.
            self._queue.popleft()
            waited = True

    async def _settle(self, change: messages.Change, reply: Reply[Any] | None, waited: bool) -> None:
        """Do one, and report how it ended."""
        try:
            answer = await self._do(change, waited)
        except Exception as error:
            match change:
                case messages.Put(reservation):
                    self.tell(messages.PutFailed(self.tier, reservation, type(error).__name__))
                case messages.Delete(keys):
                    self.tell(messages.Removed(self.tier, keys, ok=False))
            if not isinstance(error, TierError):  # those are the tier's own, and reported elsewhere
                problem = f"{type(error).__name__}: {error}"
                get_logger().warning("a tier has failed at one row", tier=self.tier, problem=problem)
            _let_go(error)
            if reply is not None:
                reply.fail(error)
        else:
            if reply is not None:
                reply.send(answer)

    async def _do(self, change: messages.Change, waited: bool) -> Any:
        match change:
            case messages.Put():
                if waited:  # the cache may not want it any more: its bytes are not to be written for nothing
                    await self.recheck(change.reservation)
                return await self.put(change)
            case messages.Delete(keys):
                return await self._remove(keys)
            case messages.Sweep():
                return await self.sweep()
            case messages.Flush():
                return None

    async def _remove(self, keys: Sequence[bytes]) -> int:
        """Remove rows, and report which are gone; the bytes freed."""
        freed = await self.delete(keys)
        left = tuple(row for key in keys if (row := self.rows.get(key)) is not None)
        gone = tuple(key for key in keys if key not in self.rows)
        self.tell(messages.Removed(self.tier, gone, ok=True, left=left))
        return freed

    # --- what a subclass does, one at a time but for `get` ----------------------------------------------------

    async def put(self, message: messages.Put) -> StoredRow:
        """See `Put`."""
        raise NotImplementedError

    async def get(self, key: bytes) -> RowBytes:
        """See `Get`."""
        raise NotImplementedError

    async def delete(self, keys: Sequence[bytes]) -> int:
        """See `Delete`. What could not be removed is still in `rows`."""
        raise NotImplementedError

    async def sweep(self) -> int:
        """See `Sweep`."""
        raise NotImplementedError

    def hangs(self, problem: str | None) -> None:
        """A change has not ended for long; None when it has."""

    # --- reports ----------------------------------------------------------------------------------------

    def touch(self, message: messages.Touch) -> None:
        """See `Touch`."""
        row = self.rows.get(message.key)
        if row is not None:
            self.rows[message.key] = msgspec.structs.replace(row, hits=message.hits, used_at=message.used_at)

    def introduce(self) -> None:
        """Tell the cache about this tier and the rows that are known."""
        self.tell(messages.TierUp(self.tier, self.tier_kind, self.quota_bytes))
        self.tell_rows(tuple(self.rows.values()), 0, len(self.rows))

    def tell_rows(self, rows: Sequence[StoredRow], before: int, total: int) -> None:
        """Report rows in batches, at least one; `before` of `total` were looked at before these."""
        for start in range(0, len(rows), BATCH) if rows else (0,):
            batch = tuple(rows[start : start + BATCH])
            self.tell(messages.TierRows(self.tier, batch, before + start + len(batch), total))

    def tell(self, report: messages.TierReport) -> None:
        """Cast to the cache. A cache that is down asks for everything once it is back."""
        with suppress(NameNotFound, MailboxClosed):
            self.names.cast(CACHE, report, bounded=False)

    async def recheck(self, reservation: int) -> None:
        """Raise `ReservationGone` unless the cache still wants the row."""
        try:
            stands = await self.names.call(CACHE, messages.Recheck(reservation))
        except ActorError as error:
            raise messages.ReservationGone(self.tier, "the cache is not there to confirm the reservation") from error
        if not stands:
            raise messages.ReservationGone(self.tier, "the reservation does not stand any more")

    async def make_room(self, reservation: int, nbytes: int) -> bool:
        """Whether rows have gone for one that has no room."""
        try:
            keys: tuple[bytes, ...] = await self.names.call(CACHE, messages.MakeRoom(reservation, nbytes))
        except ActorError:
            return False
        return bool(keys) and await self._remove(keys) > 0

    def stored(self, reservation: int, row: StoredRow) -> StoredRow:
        """A row is published: note it, and tell the cache before the caller."""
        self.rows[row.meta.key] = row
        self.tell(messages.RowStored(self.tier, reservation, row))
        return row

    def lost(self, keys: Iterable[bytes], reason: str) -> None:
        """Rows are not there any more, or are not what they were."""
        for key in keys:
            self.rows.pop(key, None)
            self.tell(messages.RowLost(self.tier, key, reason))

    def check_sizes(self, row: RowBytes) -> None:
        """Refuse a row whose bytes are not those that its description names."""
        meta, payload, logits = row.meta, row.payload, row.logits
        if (payload.nbytes, len(logits)) != (meta.payload_bytes, meta.logits_bytes) or not payload.c_contiguous:
            raise TierFailed(self.tier, f"{payload.nbytes} and {len(logits)} bytes are not those of the row")


def _let_go(error: BaseException | None) -> None:
    """Drop the frames of an error and of those that led to it. An error that a thread raises refers to its future,
    which holds it, and to the frames here: the row's buffer would stay leased until the garbage collector runs."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
