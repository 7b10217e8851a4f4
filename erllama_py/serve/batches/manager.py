"""The batches of all tenants: made, listed, cancelled, worked on a few at a time, taken up after a restart."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from erllama_py.serve.batches import outputs
from erllama_py.serve.batches.asking import Endpoints
from erllama_py.serve.batches.choosing import Open, expired, next_batch, next_expiry, too_many
from erllama_py.serve.batches.disk import write_whole
from erllama_py.serve.batches.files import Files, new_file_id
from erllama_py.serve.batches.journal import Created, State, line_of
from erllama_py.serve.batches.lines import LineProblem
from erllama_py.serve.batches.protocol import BatchRequest, shown, window_seconds
from erllama_py.serve.batches.running import Job, Means, Run
from erllama_py.serve.batches.shelf import FileFacts
from erllama_py.serve.batches.uploads import found, no_room
from erllama_py.serve.core.problems import RETRY_SECONDS, Problem
from erllama_py.serve.core.service import BatchCounts, Tenant
from erllama_py.serve.core.tenants import tenant_key
from erllama_py.watch.log import get_logger

SIDE_BY_SIDE = 4  # batches that are worked on at a time: of each the places of its lines are in memory
MOST_TENANTS = 16  # of which each has one of its own at work, beyond these
STOP_SECONDS = 5.0  # after which work that does not stop by itself is cancelled
LOG = "erllama_py.batches"


class Held:
    """A batch, and the work on it while there is any."""

    def __init__(self, batch_id: str, tenant: str, state: State, size: int) -> None:
        self.id, self.tenant = batch_id, tenant
        self.size = size
        """Bytes of its journal that are whole."""
        self.problem: LineProblem | None = None
        """What held the work on it up when it rested."""
        self.counts = (0, 0)
        """Lines that went well, and that failed, when it did."""
        self.run: Run | None = None
        self._state = state

    @property
    def state(self) -> State:
        """As its journal tells it."""
        return self._state if self.run is None else self.run.state

    @property
    def in_line(self) -> Open:
        """As it is among the others."""
        end = self.state.created.expires_at
        return Open(self.tenant, self.id, self.run is not None, math.inf if end is None else end)

    def left(self, run: Run, problem: LineProblem | None) -> None:
        """The work on it is over, or cannot go on: because of the problem, where there is one."""
        self._state, self.size, self.run, self.problem = run.state, run.journal_size, None, problem
        if (files := run.outputs) is not None:
            self.counts = files.completed, files.failed

    def shown(self) -> dict[str, Any]:
        """As a client sees it: with what holds it up now."""
        files, state = self.run.outputs if self.run is not None else None, self.state
        counts, problem = self.counts, self.problem
        if files is not None:
            counts, problem = (files.completed, files.failed), files.problem
        if problem is not None and not state.over:
            state = msgspec.structs.replace(state, problems=(*state.problems, problem))
        return shown(self.id, state, *counts)


class Batches:
    """Owns the batches. `open` is to be called before anything else, and may be called again."""

    def __init__(
        self, files: Files, endpoints: Endpoints, means: Means, counts: BatchCounts, most: Callable[[], int]
    ) -> None:
        self._files, self._endpoints, self._means, self._counts, self._most = files, endpoints, means, counts, most
        self._held: dict[str, dict[str, Held]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._leaving = asyncio.Event()

    async def open(self) -> None:
        """Look through the directory, once, and go on with what is in it. Raises `Problem`."""
        if self._leaving.is_set():
            raise Problem("unavailable", "the server is shutting down", code="shutting_down", retry_after=5)
        try:
            left = await self._files.open()
        except BlockingIOError:
            message = "another process uses the directory of files"
            raise Problem("unavailable", message, code="files_in_use", retry_after=RETRY_SECONDS) from None
        except OSError as error:
            get_logger(LOG).error("the directory of files cannot be used", error=str(error))
            raise no_room(error) from error
        for one in left or ():
            self._held.setdefault(one.tenant, {})[one.id] = Held(one.id, one.tenant, one.state, one.size)
        if left:
            self._begin()
            self._tasks["counting"] = asyncio.create_task(self._count())
        with suppress(OSError):  # the next call tries again
            await self._files.expire(self._means.clock(), self._read())

    def _read(self) -> set[str]:
        """The inputs of batches that are not over: their lines need them."""
        return {one.state.created.input_file_id for one in self._all() if not one.state.over}

    async def _count(self) -> None:
        """How far those are that an earlier process has left, and that wait for their turn."""
        for held in list(self._all()):
            if held.run is None and not held.state.over:
                with suppress(OSError):  # the run that cannot read them says so
                    held.counts = await outputs.counted(self._means.disk, held.id, self._outputs(held))

    def resume(self) -> None:
        """Go on with the batches of an earlier process, as soon as the directory can be used."""
        if self._files.outlives:
            self._tasks["resuming"] = asyncio.create_task(self._resume())

    async def _resume(self) -> None:
        while not self._leaving.is_set():
            with suppress(Problem):
                await self.open()
                return
            await outputs.paused(outputs.RETRY_SECONDS, self._leaving)  # the process before this one may still end

    async def create(self, tenant: Tenant, request: BatchRequest) -> dict[str, Any]:
        """A new batch. Raises `Problem`."""
        key, now = tenant_key(tenant), int(self._means.clock())
        if request.endpoint not in self._endpoints:
            message = f"endpoint: expected one of {', '.join(self._endpoints.names())}"
            raise Problem("invalid", message, param="endpoint")
        seconds = window_seconds(request.completion_window)
        facts = found(self._files, key, request.input_file_id, "input_file_id")
        if facts.purpose != "batch":
            raise Problem("invalid", "input_file_id: the purpose of this file is not batch", param="input_file_id")
        await self._make_room(key)
        created = Created(
            at=now, endpoint=request.endpoint, input_file_id=facts.id, output_file_id=new_file_id(),
            error_file_id=new_file_id(), completion_window=request.completion_window, expires_at=now + seconds,
            metadata=request.metadata, tenant=msgspec.to_builtins(tenant),
            output_seconds=kept.seconds if (kept := request.output_expires_after) is not None else None,
        )  # fmt: skip
        making = asyncio.ensure_future(self._make(key, created))
        return (await asyncio.shield(making)).shown()  # a client that leaves meanwhile finds it in the list

    async def _make(self, tenant: str, created: Created) -> Held:
        held = await self._written(tenant, created)
        self._held.setdefault(tenant, {})[held.id] = held
        self._begin()
        return held

    def list(self, tenant: Tenant) -> list[Held]:
        """Those of a tenant, the oldest first."""
        return list(self._held.get(tenant_key(tenant), {}).values())

    def show(self, tenant: Tenant, batch_id: str) -> dict[str, Any]:
        """One of a tenant's. Raises `Problem`."""
        return self._one(tenant, batch_id).shown()

    async def cancel(self, tenant: Tenant, batch_id: str) -> dict[str, Any]:
        """End one with the lines that are answered. Raises `Problem`."""
        held = self._one(tenant, batch_id)
        if held.state.over or held.state.status == "finalizing":
            message = f"the batch is {held.state.status} and cannot be cancelled any more"
            raise Problem("conflict", message, code="batch_not_cancellable")
        run = held.run or self._start(held)  # beyond those that are worked on side by side: it ends at once
        try:
            await run.cancel()
        except OSError as error:
            raise no_room(error) from error
        return held.shown()

    async def close(self) -> None:
        """Stop all work where it can be taken up again. Allowed twice."""
        self._leaving.set()
        if self._timer is not None:
            self._timer.cancel()
        for held in self._all():
            if held.run is not None:
                held.run.stop()
        tasks = list(self._tasks.values())
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._files.close()
        self._means.disk.close()

    # --- the work on them ----------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Begin work on those whose turn it is, and on those whose time is over."""
        if self._timer is not None:
            self._timer.cancel()
        open_ = sorted((one for one in self._all() if not one.state.over), key=lambda one: one.state.created.at)
        self._counts.open = len(open_)
        while not self._leaving.is_set() and not self._means.draining():
            now = [one.in_line for one in open_]
            one = expired(now, self._means.clock()) or next_batch(now, SIDE_BY_SIDE, MOST_TENANTS)
            if one is None:
                self._wake_at(next_expiry(now))
                return
            self._start(self._held[one.tenant][one.id])

    def _wake_at(self, end: float) -> None:
        seconds = max(0.0, end - self._means.clock())
        self._timer = asyncio.get_running_loop().call_later(seconds, self._begin) if end < math.inf else None

    def _start(self, held: Held) -> Run:
        run = self._new_run(held)
        task = self._tasks[held.id] = asyncio.create_task(self._work(held, run))
        task.add_done_callback(lambda _: self._tasks.pop(held.id, None))
        return run

    def _new_run(self, held: Held) -> Run:
        files, created = self._files, held.state.created
        output, errors = self._outputs(held)
        job = Job(
            id=held.id, tenant=held.tenant, input=files.path(held.tenant, created.input_file_id),
            journal=files.path(held.tenant, held.id, "journal"), index=files.path(held.tenant, held.id, "index"),
            output=output, errors=errors,
        )  # fmt: skip
        ask = self._endpoints.of(msgspec.convert(created.tenant, Tenant))
        held.run = Run(job, held.state, held.size, ask, self._means, publish=lambda run: self._publish(held, run))
        return held.run

    def _outputs(self, held: Held) -> tuple[Path, Path]:
        """What is answered: the lines that went well, and those that failed."""
        created = held.state.created
        ids = created.output_file_id, created.error_file_id
        return self._files.path(held.tenant, ids[0]), self._files.path(held.tenant, ids[1])

    async def _work(self, held: Held, run: Run) -> None:
        """Until it is over, or the process leaves. What cannot be written now is tried again."""
        get_logger(LOG).info("a batch goes on", batch=held.id, status=held.state.status)
        while True:
            held.left(run, await self._gone_on(held, run))
            if held.state.over or self._leaving.is_set() or self._means.draining():
                break
            run = self._new_run(held)
            await outputs.paused(outputs.RETRY_SECONDS, run.stopping)
        state = held.state
        about = {"status": state.status, "completed": state.completed, "failed": state.failed}
        get_logger(LOG).info("a batch rests", batch=held.id, **about)
        self._begin()

    async def _gone_on(self, held: Held, run: Run) -> LineProblem | None:
        """One run, whatever comes of it: what holds it up."""
        try:
            await run.go()
            return run.outputs.problem if run.outputs is not None else None
        except OSError as error:
            get_logger(LOG).error("a batch is held up", batch=held.id, error=str(error))
            return outputs.holding_up(error)
        except Exception as error:  # a fault of the server's own: the next run would meet it too
            get_logger(LOG).error("a batch failed", batch=held.id, exc_info=error)
            with suppress(OSError):
                await run.fail(LineProblem("internal_error", "the server cannot go on with this batch: see its log"))
            return None

    async def _publish(self, held: Held, run: Run) -> None:
        """The answers of a batch that ends become files of its tenant. Raises `OSError`."""
        created, files = run.state.created, run.outputs
        if files is None:
            return
        for file_id, size, what in (
            (created.output_file_id, files.sizes[0], "output"), (created.error_file_id, files.sizes[1], "errors"),
        ):  # fmt: skip
            if not size:
                await self._files.remove(self._files.path(held.tenant, file_id))
                continue
            now, kept = int(self._means.clock()), created.output_seconds
            facts = FileFacts(
                id=file_id, bytes=size, created_at=now, filename=f"{held.id}_{what}.jsonl", purpose="batch_output",
                expires_at=None if kept is None else now + kept,
            )  # fmt: skip
            await self._files.keep(held.tenant, facts)
        await self._files.remove(self._files.path(held.tenant, held.id, "index"))

    # --- what is held --------------------------------------------------------------------------------------------

    async def _written(self, tenant: str, created: Created) -> Held:
        """The journal of a new batch, on the disk before its client hears of it. Raises `Problem`."""
        batch_id, record = f"batch_{uuid.uuid4().hex}", line_of(created)
        path = self._files.path(tenant, batch_id, "journal")
        try:
            await self._means.disk.do(write_whole, path, record)
        except OSError as error:
            raise no_room(error) from error
        return Held(batch_id, tenant, State(created=created, endpoint=created.endpoint), len(record))

    async def _make_room(self, tenant: str) -> None:
        held = self._held.get(tenant, {})
        over = [one.id for one in held.values() if one.state.over]
        open_count = len(held) - len(over)
        if open_count >= (most := self._most()):
            message = f"{open_count} batches are open, as many as a key may have"
            raise Problem("rate_limited", message, code="too_many_batches", retry_after=60)
        for batch_id in too_many(over, open_count, most):
            paths = (self._files.path(tenant, batch_id, kind) for kind in ("journal", "index"))
            try:
                await self._files.remove(*paths)
            except OSError as error:
                raise no_room(error) from error
            held.pop(batch_id, None)  # another request may have forgotten it meanwhile

    def _one(self, tenant: Tenant, batch_id: str) -> Held:
        held = self._held.get(tenant_key(tenant), {}).get(batch_id)
        if held is None:
            raise Problem("not_found", f"there is no batch {batch_id[:80]!r}", code="batch_not_found", param="batch_id")
        return held

    def _all(self) -> Iterator[Held]:
        return (one for held in self._held.values() for one in held.values())
