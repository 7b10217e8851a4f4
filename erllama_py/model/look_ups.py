"""The look-ups of one model's requests: a task for each, from asking the cache to the last row.

Owns the tasks. `find` asks and posts `Found`; `read` reads the rows that the machine has chosen and posts a `RowRead`
each, at most `READ_AHEAD` ahead of the engine; `end` stops it, reports to the cache what came of it, and frees the
rows. A look-up that is ended before its last answer or row arrived counts as cancelled: its request began without it.
Every look-up that was begun must be ended: rows stay pinned until then, or until this actor's name is free.

The logits at the ends of recent prompts (`KeptLogits`) are found here too: a prompt that comes again needs no decode.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Iterable, MutableMapping
from itertools import islice
from typing import Any

import anyio
import numpy

from erllama_py.actors import Background
from erllama_py.cache.client import CacheClient
from erllama_py.cache.messages import Find, Located, RowBytes, RowLost, Used, UsedKind
from erllama_py.cache.policy import read_seconds
from erllama_py.scheduler.messages import EndLookUp, Found, LookUp, ReadRows, RowRead

# Rows that are in memory and not yet in the cells: while one is restored, the next ones are read and checked. Two
# threads at work on reading, one row that waits, one that goes in.
READ_AHEAD = 4
# Ends of an engine in which a row was put back, saved anew in between: the next one would end it too.
MOST_CRASHES = 2
# The last 170 prompts of a model with 49,152 tokens in its vocabulary, the last 32 of one with 262,144.
KEPT_LOGITS_BYTES = 32 << 20


class LookUps:
    """See the module. `post` hands an event to the actor; `kept` has the logits of recent prompts, `crashed` how
    often an engine has ended with a row since one like it was put back."""

    def __init__(
        self, cache: CacheClient, holder: str, kept: KeptLogits, n_vocab: int,
        post: Callable[[Found | RowRead], None], crashed: MutableMapping[bytes, int],
    ) -> None:  # fmt: skip
        self._cache, self._holder, self._kept, self._post = cache, holder, kept, post
        self._n_vocab = n_vocab
        self._crashed = crashed
        self._background = Background(holder)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._ahead: dict[int, anyio.Semaphore] = {}
        self._taken: dict[int, anyio.Semaphore] = {}  # rows in the cells
        self._due: dict[int, int] = {}  # answers and rows that a request still waits for

    def find(self, job: LookUp, tier: str, cuttable: bool) -> None:
        """Ask the cache; posts `Found`."""
        self._due[job.request.id] = 1
        self._start(job.request.id, self._find(job, tier, cuttable))

    def read(self, job: ReadRows) -> None:
        """Read rows; posts a `RowRead` for each, and one without a row if reading ends early."""
        self._ahead[job.request_id] = anyio.Semaphore(READ_AHEAD)
        self._taken[job.request_id] = anyio.Semaphore(0)
        self._due[job.request_id] = len(job.rows)
        self._start(job.request_id, self._read(job))

    def taken(self, request_id: int) -> None:
        """A row is in the cells."""
        if ahead := self._ahead.get(request_id):
            ahead.release()
            self._taken[request_id].release()
            self._due[request_id] -= 1

    def end(self, ended: EndLookUp) -> None:
        """Stop it, and tell the cache."""
        request_id = ended.request_id
        if task := self._tasks.pop(request_id, None):
            task.cancel()
        self._ahead.pop(request_id, None)
        self._taken.pop(request_id, None)
        kind: UsedKind = "live" if ended.hit.kind == "sticky" else ended.hit.kind
        if ended.resumed and kind in ("exact", "partial"):
            kind = "resume"
        if self._due.pop(request_id, 0) and ended.refused is None and not ended.stopped:
            kind = "cancelled"
        used = Used(holder=self._holder, request_id=request_id, kind=kind, rows=ended.rows, seconds=ended.seconds)
        self._cache.tell(used)
        for row in ended.rows:  # what was put back is not what crashes each time
            self._crashed.pop(row.meta.key, None)
        if ended.refused is not None and ended.bad:
            self.refuse((ended.refused,))

    def refuse(self, rows: Iterable[Located]) -> None:
        """Tell the cache that these rows are of no use."""
        for row in rows:
            self._cache.tell(RowLost(row.tier, row.meta.key, "refused"))

    async def stop(self) -> None:
        """End all tasks."""
        await self._background.stop()

    def _start(self, request_id: int, work: Coroutine[Any, Any, None]) -> None:
        self._tasks[request_id] = self._background.start(work)

    async def _find(self, job: LookUp, tier: str, cuttable: bool) -> None:
        request = job.request
        question = Find(
            holder=self._holder, request_id=request.id, identity=request.identity, tokens=request.packed,
            cuttable=cuttable, tier=tier, parent_key=request.parent_key, wait_seconds=request.wait_seconds,
            keeps=request.keeps, after_saves=job.after_saves,
        )  # fmt: skip
        hit = await self._cache.find(question)
        self._due[request.id] = 0
        self._post(Found(request.id, hit, self._kept.get(request.key)))

    async def _read(self, job: ReadRows) -> None:
        ahead, taken, singly = self._ahead[job.request_id], self._taken[job.request_id], job.singly
        # Reads begin in order, as the semaphore allows; each row is released once it is handed on. No task group: its
        # error would hold these frames, and the rows in them, until the garbage collector runs. No more tasks than
        # there can be reads at once, and one that waits: a prompt can have ten thousand rows.
        rows = zip(job.rows, read_seconds([row.meta for row in job.rows]), strict=True)
        reads = deque[asyncio.Task[RowBytes | None]]()
        try:
            while True:
                reads += [
                    asyncio.ensure_future(self._read_one(row, seconds, ahead))
                    for row, seconds in islice(rows, READ_AHEAD + 1 - len(reads))
                ]
                if not reads:
                    return
                content = await reads.popleft()
                self._post(RowRead(job.request_id, content))
                if content is None:
                    self._due[job.request_id] = 0
                    return
                del content
                if singly and reads:
                    singly -= 1
                    await taken.acquire()
        finally:
            while reads:
                reads.pop().cancel()

    async def _read_one(self, row: Located, seconds: float, ahead: anyio.Semaphore) -> RowBytes | None:
        await ahead.acquire()
        if self._crashed.get(row.meta.key, 0) >= MOST_CRASHES:
            return None
        content = await self._cache.read(row, seconds)
        if content is None or are_logits(content.logits, self._n_vocab):
            return content
        # Whole, and no row of this model all the same: found again, it would fail each request with this prompt.
        self.refuse((row,))
        return None


def are_logits(logits: bytes, n_vocab: int) -> bool:
    """Whether these are the logits of a vocabulary of this size, all of them numbers; or none at all. Pure."""
    if not logits:
        return True
    return len(logits) == 4 * n_vocab and not numpy.isnan(numpy.frombuffer(logits, "<f4")).any()


class KeptLogits:
    """Logits by the key of their prompt; the least recently used go first when `budget` bytes are full."""

    def __init__(self, budget: int = KEPT_LOGITS_BYTES) -> None:
        self._budget = budget
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<KeptLogits of {len(self._kept)} prompts, {self._bytes >> 10} KiB>"

    def get(self, key: bytes) -> bytes | None:
        """The logits at the end of a prompt, if they are still there."""
        logits = self._kept.get(key)
        if logits is not None:
            self._kept.move_to_end(key)
        return logits

    def put(self, key: bytes, logits: bytes) -> None:
        """Remember them, if they fit at all."""
        self._bytes -= len(self._kept.pop(key, b""))
        if len(logits) > self._budget:
            return
        self._kept[key] = logits
        self._bytes += len(logits)
        while self._bytes > self._budget:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest)
