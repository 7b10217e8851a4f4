"""One batch from its journal to its end: checked, each line asked once, its answers written as they come.

It can be ended at any moment. What is known of it then is in its files: the journal says how far it is, and the output
which lines are answered. The same run by another process goes on from there.

    Run.go ─► check the input ─► ask the lines, several at a time ─► end
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from erllama_py.serve.batches import answers, journal
from erllama_py.serve.batches.asking import GONE, Ask
from erllama_py.serve.batches.checking import check, places
from erllama_py.serve.batches.disk import Disk, Growing, read_at
from erllama_py.serve.batches.journal import State, line_of
from erllama_py.serve.batches.lines import Bounds, LineProblem, Place, Scan, body_of, head_of, streams, with_model
from erllama_py.serve.batches.ordering import in_order
from erllama_py.serve.batches.outputs import Outputs, Stopped, paused
from erllama_py.serve.batches.slots import Slots
from erllama_py.serve.batches.verdicts import verdict
from erllama_py.serve.batches.waiting import Waiting
from erllama_py.serve.core.service import BatchCounts

AT_ONCE = 500  # lines without an answer that are written in one go
DELETED = ("input_file_deleted", "the input file was deleted before this line was begun")
CHANGED = ("input_file_changed", "the input file is another one than it was")
EXPIRED = ("batch_expired", "the line was not answered within the completion window")
MODEL_AWAY = frozenset(("model_load_failed", "model_loading"))
STREAMS = ("stream_not_supported", "stream: lines of a batch are answered whole")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as files."""

    id: str
    tenant: str = ""
    """Whose it is, by a name for it."""
    input: Path
    journal: Path
    index: Path
    output: Path
    errors: Path


class Means(msgspec.Struct, frozen=True, kw_only=True):
    """What all batches of a process share."""

    disk: Disk
    slots: Slots
    """Lines that are asked at a time."""
    bounds: Callable[[], Bounds]
    """Of a file that is checked."""
    width: Callable[[], int]
    """How many lines one batch has at work at a time, those that wait to be asked again among them."""
    known: Callable[[str], bool]
    """Whether lines can name an endpoint."""
    counts: BatchCounts
    """What is told to operators."""
    draining: Callable[[], bool] = lambda: False
    """Whether no line is to be begun any more, because the process ends."""
    clock: Callable[[], float] = time.time
    """Unix time."""


async def _nowhere(run: Run) -> None:
    """The answers stay where they are."""


class Run:
    """The work on one batch, done once. `state` is what its journal tells, in `journal_size` bytes.

    `model`, where given, replaces that of each line. `publish` is awaited when all answers are written, before the
    journal tells that the batch is over.
    """

    def __init__(
        self, job: Job, state: State, journal_size: int, ask: Ask, means: Means, *, model: str | None = None,
        publish: Callable[[Run], Awaitable[None]] = _nowhere,
    ) -> None:  # fmt: skip
        self.state, self.journal_size = state, journal_size
        self.outputs: Outputs | None = None
        self._job, self._ask, self._means, self._model, self._publish = job, ask, means, model, publish
        self._journal: Growing | None = None
        self._recording = asyncio.Lock()
        self.stopping = asyncio.Event()
        """No line is begun any more, and those that are asked are given up."""
        self._expired = self._closed = False

    def stop(self) -> None:
        """Leave it as it is: `go` returns soon, and another run can go on."""
        self.stopping.set()

    async def cancel(self) -> None:
        """End it with the lines that are answered. Raises `OSError` where that cannot be written down."""
        await self._record(journal.Cancelling(at=self._now()))
        if self.state.status == "cancelling":
            self.stopping.set()

    async def fail(self, problem: LineProblem) -> None:
        """End it because the server cannot go on with it; after `go`. Raises `OSError`."""
        self._closed = False
        try:
            await self._refuse(problem)
        finally:
            await self._close()

    async def go(self) -> State:
        """Work until it is over, or cannot go on now: because it was stopped, or a disk takes nothing. Raises `OSError`
        where its files cannot be opened or written; another run goes on."""
        try:
            if self.state.status == "validating":
                await self._check()
            if self.state.status == "in_progress":
                await self._answer()
            if self.state.status in ("finalizing", "cancelling"):
                with suppress(Stopped):
                    await self._finish()
        finally:
            await self._close()
        return self.state

    # --- its stages ----------------------------------------------------------------------------------------------

    async def _check(self) -> None:
        means, created = self._means, self.state.created
        scan = Scan(means.bounds(), created.endpoint)
        if not await check(means.disk, self._job.input, self._job.index, scan, self.stopping):
            return
        if scan.endpoint is not None and not means.known(scan.endpoint) and not scan.problems:
            scan.problems.append(LineProblem("invalid_url", f"{scan.endpoint[:80]} takes no batch", "url", 1))
        if scan.problems:
            await self._record(journal.Refused(at=self._now(), problems=tuple(scan.problems)))
            return
        endpoint, models = scan.endpoint or "", tuple(scan.models)
        await self._record(journal.Validated(at=self._now(), total=scan.total, endpoint=endpoint, models=models))

    async def _answer(self) -> None:
        """All lines that have no answer yet."""
        found = await self._places()
        if found is None and not self.stopping.is_set():
            await self._refuse(LineProblem("input_file_not_found", "the lines of this batch cannot be read any more"))
        if found is None:
            return
        outputs = await self._opened()
        todo = await self._means.disk.do(in_order, found, outputs.lines)
        all_lines = len(outputs.lines) + len(todo)
        with self._timed():
            await self._work_through(todo)
        if len(outputs.lines) == all_lines or self._expired:
            await self._record(journal.Finalizing(at=self._now(), expired=len(outputs.lines) < all_lines))

    async def _places(self) -> list[Place] | None:
        """Where the lines are. Without the index, lost with the power or damaged, the input has the same lines still;
        None where it has not."""
        means, job, total = self._means, self._job, self.state.total
        found = await places(means.disk, job.index)
        if found is None or len(found) != total:
            bounds = Bounds(total, sys.maxsize)  # it was within those that held when it was checked
            await check(means.disk, job.input, job.index, Scan(bounds, self.state.endpoint), self.stopping)
            found = await places(means.disk, job.index)
        return None if found is None or len(found) != total else found

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Within its completion window; where that is over already, no line is begun."""
        seconds = math.inf if (end := self.state.created.expires_at) is None else end - self._means.clock()
        if seconds <= 0:
            self._expire()
        timer = asyncio.get_running_loop().call_later(seconds, self._expire) if 0 < seconds < math.inf else None
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()

    async def _work_through(self, todo: list[Place]) -> None:
        waiting = Waiting(todo)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._means.width(), len(todo))):
                group.create_task(self._take(waiting))

    async def _take(self, waiting: Waiting) -> None:
        """One line after another."""
        with suppress(Stopped):
            while not self.stopping.is_set() and not self._means.draining() and (taken := waiting.next()) is not None:
                await self._line(*taken, waiting)

    async def _finish(self) -> None:
        """What is left unanswered is told where the time was over; then the batch is."""
        outputs = await self._opened()
        if self.state.expired:
            found = await self._places() or []
            left = [place for place in found if place.line not in outputs.lines]
            for start in range(0, len(left), AT_ONCE):
                part = left[start : start + AT_ONCE]
                lines = [(place.line, answers.unanswered(self._job.id, place, *EXPIRED)) for place in part]
                await outputs.add_all(lines, well=False)
        await outputs.sync()
        await self._publish(self)
        ended = journal.Ended(at=self._now(), completed=outputs.completed, failed=outputs.failed)
        await self._record(ended)

    async def _refuse(self, problem: LineProblem) -> None:
        """It ends with the answers that are there."""
        outputs = await self._opened()
        await self._publish(self)
        done, failed = outputs.completed, outputs.failed
        await self._record(journal.Refused(at=self._now(), problems=(problem,), completed=done, failed=failed))

    # --- one line ------------------------------------------------------------------------------------------------

    async def _line(self, place: Place, at: float | None, waiting: Waiting) -> None:
        job, body = self._job, await self._body(place, await self._opened())
        if not isinstance(body, bytes):
            await self._add(place, answers.unanswered(job.id, place, *body), well=False)
            return
        model, seconds = head_of(body).model or "", asyncio.get_running_loop().time
        if at is not None:
            await paused(max(0.0, at - seconds()), self.stopping)
        elif waiting.is_away(model):
            waiting.put_off(place, model)
            return
        tries = crashes = 0
        while not self.stopping.is_set():
            async with self._means.slots.one(job.tenant):
                if self.stopping.is_set() or (tries and self._means.draining()):
                    return
                answer = await self._ask(self.state.endpoint or "", body, self.stopping)
            if answer.status == GONE:
                return
            tries += 1
            crashes += answer.code == "model_crashed"
            known = verdict(answer.status, answer.code, answer.retry_after, tries, crashes)
            if known.outcome != "again":
                data = answers.answered(job.id, place, answer.status, answer.request_id, answer.body)
                await self._add(place, data, well=known.outcome == "done")
                waiting.is_there(model)
                return
            if self._means.draining():
                return
            if answer.code in MODEL_AWAY:
                waiting.put_off(place, model, seconds() + known.seconds)
                return
            await paused(known.seconds, self.stopping)

    async def _add(self, place: Place, data: bytes, *, well: bool) -> None:
        await (await self._opened()).add(place.line, data, well=well)
        self._means.counts.add(well=well)

    async def _body(self, place: Place, outputs: Outputs) -> bytes | tuple[str, str]:
        """The body of a line; or why it has none. Raises `Stopped`."""
        while True:
            try:
                line = await self._means.disk.do(read_at, self._job.input, place.offset, place.length)
                break
            except FileNotFoundError:
                return DELETED
            except OSError as error:  # too many open files, a file system that is away: no fault of the line
                await outputs.held_up(error)
        if (body := body_of(line, place.custom_id)) is None:
            return CHANGED
        if streams(body):
            return STREAMS
        return with_model(body, self._model) if self._model is not None else body

    # --- its files -----------------------------------------------------------------------------------------------

    async def _opened(self) -> Outputs:
        if self.outputs is None:
            job = self._job
            self.outputs = await Outputs.open(self._means.disk, job.id, (job.output, job.errors), self.stopping)
        return self.outputs

    async def _record(self, record: journal.Record) -> None:
        async with self._recording:
            if self._closed:
                return
            if self._journal is None:
                self._journal = await Growing.open(self._means.disk, self._job.journal, self.journal_size)
            try:
                await self._journal.append(line_of(record))
                await self._journal.sync()
            except OSError:
                await self._let_go()  # opened again, it has what is known to be there
                raise
            self.journal_size = self._journal.size
            self.state = journal.after(self.state, record)

    async def _close(self) -> None:
        if self.outputs is not None:
            await self.outputs.close()
        async with self._recording:
            await self._let_go()
            self._closed = True  # last: what is recorded until here is told by `state`

    async def _let_go(self) -> None:
        if self._journal is not None:
            await self._journal.close()
            self._journal = None

    def _expire(self) -> None:
        """Its time is over: what is asked is given up."""
        self._expired = True
        self.stopping.set()

    def _now(self) -> int:
        return int(self._means.clock())
