"""Carries rows to tiers: one queue and one worker for each, so that a slow disk holds up nobody else.

In a queue everything is done in turn: parents are stored before children, and rows are removed before the bytes that
need their room are written. The cache is told how each ended. A flush leaves a mark at the end of each queue, and is
answered when all are reached. What a queue may hold is bounded by the buffers that the rows lie in. Nothing here
decides: a row that arrives has a reservation.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from erllama_py.actors import Actor, ActorError, Background, Exit, Reply
from erllama_py.cache.messages import Flush, Remove, Removed, SaveEnded, SaverMessage, Write
from erllama_py.errors import TierError
from erllama_py.tiers.messages import CACHE, Delete, Put, tier_actor_name
from erllama_py.watch.log import get_logger


class Mark:
    """How far a flush has to wait, in so many queues."""

    def __init__(self, queues: int, reply: Reply[Any]) -> None:
        self._queues = queues
        self._reply = reply

    def reached(self) -> None:
        """All that stood before it in one queue is done."""
        self._queues -= 1
        if not self._queues:
            self._reply.send(None)


Job = tuple[Write | Remove | Mark, Reply[Any] | None]


class Saver(Actor[SaverMessage]):
    """See the module."""

    kind = "saver"

    def __init__(self) -> None:
        self._background = Background("saver")
        self._queues: dict[str, list[Job]] = {}  # of the tiers whose worker runs
        self._log = get_logger()

    def __repr__(self) -> str:
        waiting = ", ".join(f"{tier}: {len(queue)}" for tier, queue in self._queues.items())
        return f"<Saver {waiting or 'idle'}>"

    async def handle(self, message: SaverMessage, reply: Reply[Any] | None) -> None:
        match message:
            case Write() | Remove():
                queue = self._queues.get(message.tier)
                if queue is None:
                    queue = self._queues[message.tier] = []
                    self._background.start(self._work(message.tier, queue))
                queue.append((message, reply))
            case Flush() if reply is not None:
                mark = Mark(len(self._queues), reply)
                for queue in self._queues.values():
                    queue.append((mark, None))
                if not self._queues:
                    reply.send(None)

    async def terminate(self, exit: Exit) -> None:
        await self._background.stop()

    async def _work(self, tier: str, queue: list[Job]) -> None:
        """Empty a queue; ends with it. However it ends, the cache hears of each row in it."""
        try:
            while queue:
                job, reply = queue[0]
                match job:
                    case Write():
                        await self._save(job)
                    case Remove():
                        freed = await self._remove(tier, job.keys)
                        if reply is not None:
                            reply.send(freed or 0)
                    case Mark():
                        job.reached()
                # Let go of the buffer before waiting for the next row.
                del job, queue[0]
        finally:
            del self._queues[tier]
            for job, _ in queue:
                if isinstance(job, Write):
                    self._tell(SaveEnded(tier, job.reservation, "saver_gone"))
                elif isinstance(job, Mark):
                    job.reached()

    async def _save(self, job: Write) -> None:
        if await self._remove(job.tier, job.victims) is not None:
            await self._write(job)
        else:
            self._tell(SaveEnded(job.tier, job.reservation, "no_room"))

    async def _remove(self, tier: str, keys: tuple[bytes, ...]) -> int | None:
        """The bytes freed; None where the tier could not say so."""
        if not keys:
            return 0
        freed: int | None = None
        try:
            freed = await self.names.call(tier_actor_name(tier), Delete(keys))
        except Exception as error:
            self._failed(error, "rows could not be removed", tier)
        self._tell(Removed(tier, keys, freed is not None))
        return freed

    async def _write(self, job: Write) -> None:
        problem: str | None = None
        try:
            await self.names.call(tier_actor_name(job.tier), Put(job.reservation, job.meta, job.payload, job.logits))
        except Exception as error:
            problem = type(error).__name__
            self._failed(error, "a row could not be saved", job.tier)
        self._tell(SaveEnded(job.tier, job.reservation, problem))

    def _failed(self, error: Exception, event: str, tier: str) -> None:
        """One job failed, whatever of; those behind it are none the worse for it."""
        if not isinstance(error, ActorError | TierError):  # these are told by the tier
            self._log.warning(event, tier=tier, problem=f"{type(error).__name__}: {error}")
        # An error that a call raises refers to that call, which holds it, and to the frames here: the row's buffer
        # would be out until the garbage collector comes by.
        error.__traceback__ = None

    def _tell(self, message: Removed | SaveEnded) -> None:
        with suppress(ActorError):  # a cache that is gone has forgotten its reservations
            self.names.cast(CACHE, message, bounded=False)
