"""The thread that owns one model's context, from the loading of its weights to their end.

The event loop's side: `load`, `submit`, `stop`, and `deliver`, which gets the outcomes. The thread's side: load,
then tick while there is work, then wait for a job. One tick is

    take the jobs that came  →  plan  →  one decode  →  sample  →  copy cells out  →  post one batch of outcomes

The thread never waits for the loop: outcomes are handed over with `call_soon_threadsafe`, so a busy loop
delays what is seen, not what is decoded. Any exception ends the thread; `failure` keeps it and `Died` is
the last outcome. However the thread ends, the backend is closed on it, so native memory is free once
`ended` is set.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import anyio
import msgspec

from erllama_py.buffers import BufferPool
from erllama_py.config import SaveReason
from erllama_py.engine.backend import Backend, BackendFailure, DecodeStatus, LoadCancelled, ModelFacts, Slice
from erllama_py.engine.cells import Cells
from erllama_py.engine.jobs import (
    Cancel,
    Capture,
    Died,
    Drop,
    Failed,
    Fault,
    Generate,
    Job,
    Outcome,
    Prefilled,
    PromptLogits,
    Restore,
)
from erllama_py.engine.sequence import Running
from erllama_py.engine.tick_plan import plan_tick
from erllama_py.errors import ContextOverflow, RequestError
from erllama_py.watch.log import get_logger

# Ranges copied out for one sequence in one tick, some milliseconds for large models: whatever else is due follows in
# the next ticks, so that no stream stands still for longer.
CAPTURES_PER_TICK = 2

PROGRESS_STEP = 0.01  # a load reports each hundredth: enough for a bar, and a few hundred bytes in all


class DrillFault(Exception):
    """Raised on purpose, by `Fault("thread")`."""


class EngineThread:
    """One backend on a thread of its own. Everything public is called on the event loop."""

    def __init__(
        self, backend: Backend, deliver: Callable[[Sequence[Outcome]], None], name: str, buffers: BufferPool
    ) -> None:
        self.failure: BaseException | None = None
        self.ended = anyio.Event()
        self._load_over = anyio.Event()
        self._facts: ModelFacts | None = None
        self._load_told = 0.0  # the fraction last reported
        self._on_progress: Callable[[float], object]
        self._log = get_logger(thread=name)
        self._backend = backend
        self._cells = Cells(backend, buffers)
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._todo: deque[Job | None] = deque()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._stopping = False
        self._running: list[Running] = []
        self._outcomes: list[Outcome] = []
        self._fail_decode = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __repr__(self) -> str:
        state = "ended" if self.ended.is_set() else "stopping" if self._stopping else "running"
        return f"<EngineThread {self._thread.name!r} {state}, {len(self._running)} running, {self._jobs.qsize()} jobs>"

    async def load(self, on_progress: Callable[[float], object]) -> ModelFacts:
        """Start the thread and wait until the model is loaded; `on_progress` gets fractions up to 1.0.

        Raises what the backend's `load` raised. A caller that is cancelled calls `stop`, as after any end.
        """
        self._on_progress = on_progress
        self._thread.start()
        await self._load_over.wait()
        if self._facts is None:
            raise self.failure or LoadCancelled
        return self._facts

    def submit(self, job: Job) -> None:
        """Queue a job. A `Cancel` also makes a decode that is under way stop early."""
        # With the lock, the thread never sees the flag without the job that is the reason for it, so no
        # decode is ever aborted for nothing.
        with self._lock:
            self._jobs.put(job)
            if isinstance(job, Cancel):
                self._backend.abort(True)

    async def stop(self, deadline: float) -> bool:
        """Ask the thread to end and wait for it, at most `deadline` seconds; false if it still runs."""
        self._stopping = True
        with self._lock:
            self._jobs.put(None)
            self._backend.abort(True)
        with anyio.move_on_after(deadline):
            await self.ended.wait()
            self._thread.join()  # it said so with its last step
        return self.ended.is_set()

    # --- on the thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._facts = self._backend.load(self._load_progress)
            self._call_loop(self._load_over.set)
            self._serve(self._facts)
        except LoadCancelled:
            pass
        except BaseException as error:
            self.failure = error
            self._outcomes.append(Died(type(error).__name__, str(error)))
        finally:
            for running in self._running:
                running.sampler.close()
            self._running.clear()
            self._backend.close()
            self._post()
            self._call_loop(self._load_over.set)
            self._call_loop(self.ended.set)

    def _serve(self, facts: ModelFacts) -> None:
        while not self._stopping:
            self._take_jobs()
            self._do_jobs(facts)
            if not self._stopping:
                self._tick(facts)
                self._finish_all()
                self._post()

    def _take_jobs(self) -> None:
        """All jobs that have come; waits for one only when there is nothing to do."""
        if not self._running and not self._todo:
            self._todo.append(self._jobs.get())
        with self._lock:
            self._backend.abort(False)
            while not self._jobs.empty():
                self._todo.append(self._jobs.get())

    def _do_jobs(self, facts: ModelFacts) -> None:
        while self._todo and not self._stopping:
            job = self._todo.popleft()
            self._do(job, facts)
            if self._running and isinstance(job, Restore | Capture):
                break  # one copy of megabytes in a tick: the other sequences go on decoding in between

    def _do(self, job: Job | None, facts: ModelFacts) -> None:
        match job:
            case Generate():
                self._begin(job, facts)
            case Restore():
                self._outcomes.append(self._cells.restore(job))
                self._post()  # the next row is read while this thread puts in those that have come
            case Capture():
                copied = self._cells.capture(job.request_id, job.seq_id, job.start, job.end, job.reason, [])
                self._outcomes.append(copied)
            case Drop(seq_id):
                self._backend.remove(seq_id, 0, -1)
            case Cancel(request_id):
                for running in self._running:
                    if running.job.request_id == request_id and running.finish is None:
                        running.cancel()
            case Fault("thread"):
                raise DrillFault("the engine thread was told to fail")
            case Fault():
                self._fail_decode = True
            case None:  # `stop` wakes the thread with it
                pass

    def _begin(self, job: Generate, facts: ModelFacts) -> None:
        if not self._cells.cut(job.seq_id, job.keep):
            # Nothing that was planned for. Ending the engine would be no cure: it would come back to the same rows.
            self._log.warning("a sequence does not hold what it should; computing all of it", keep=job.keep)
            if not self._cells.cut(job.seq_id, 0):
                raise BackendFailure(f"sequence {job.seq_id} cannot be emptied")
            job = msgspec.structs.replace(job, keep=0, logits=None)
        try:
            running = Running(job, self._backend.sampler(job.sampling, job.tokens), facts, time.perf_counter())
        except RequestError as error:
            self._fail(job.request_id, error)
            return
        self._running.append(running)
        self._capture_due(running, CAPTURES_PER_TICK)  # of what is kept: a recurrent state stands there only now
        if job.keep == len(job.tokens):
            self._outcomes.append(Prefilled(job.request_id, job.keep, job.keep))
            self._draw(running, lambda: running.sampler.sample_from(job.logits or b""))

    def _tick(self, facts: ModelFacts) -> None:
        live = [running for running in self._running if running.finish is None]
        portions = plan_tick([running.need() for running in live], facts.n_batch, facts.n_ubatch)
        batch = [(live[portion.index], portion.tokens) for portion in portions]
        slices = [running.slice(count) for running, count in batch]
        if not slices:
            return
        began = time.perf_counter()
        match self._decode(slices):
            case DecodeStatus.DONE:
                self._cells.decoded(sum(len(part.tokens) for part in slices), time.perf_counter() - began)
                for index, ((running, count), part) in enumerate(zip(batch, slices, strict=True)):
                    self._advance(running, count, index if part.logits else None)
                for running, _ in batch:
                    self._capture_due(running, CAPTURES_PER_TICK)
            case DecodeStatus.ABORTED:
                for running, _ in batch:
                    self._resume(running, facts)
            case DecodeStatus.NO_CELLS:
                running, _ = batch[-1]
                problem = f"the KV cache has no room for more of this request at position {running.position}"
                self._drop(running, ContextOverflow(problem, len(running.job.tokens), facts.n_ctx))

    def _decode(self, slices: list[Slice]) -> DecodeStatus:
        if self._fail_decode:
            raise BackendFailure("a decode was told to fail")
        return self._backend.decode(slices)

    def _advance(self, running: Running, count: int, logits: int | None) -> None:
        prefilling = not running.generating
        running.decoded(count)
        job = running.job
        if prefilling:
            self._outcomes.append(Prefilled(job.request_id, running.position, len(job.tokens)))
        if logits is None:
            return
        if prefilling and job.keep_logits:
            self._outcomes.append(PromptLogits(job.request_id, self._backend.logits(logits)))
        self._draw(running, lambda: running.sampler.sample(logits))

    def _draw(self, running: Running, draw: Callable[[], int]) -> None:
        """The next token of a request whose last position has logits."""
        now = time.perf_counter
        if running.job.max_new_tokens == 0:
            running.prompt_done(now())
            return
        try:
            token = draw()
            running.sampled(token, self._backend.vocabulary, now())
        except RequestError as error:
            self._drop(running, error)
            return
        if running.job.stream and (text := running.take_text()):
            self._outcomes.append(text)

    def _capture_due(self, running: Running, most: int | None = None) -> None:
        """Copy out the ranges that a request has completed, at most `most` of them now."""
        done = 0
        while running in self._running and (due := running.captures.due(running.position)):
            if most is not None and done == most:
                return
            if not done:
                self._post()  # a token that was drawn in this tick does not wait for the copy
            self._capture(running, *due)
            done += 1

    def _capture(self, running: Running, end: int, reason: SaveReason) -> None:
        job = running.job
        start, generated = running.captures.captured_to, running.tokens[: max(0, end - len(job.tokens))]
        copied = self._cells.capture(job.request_id, job.seq_id, start, end, reason, generated)
        running.captures.settle(end, copied.payload is not None)
        self._outcomes.append(copied)

    def _resume(self, running: Running, facts: ModelFacts) -> None:
        """After an abort: whole micro-batches of the prompt may be in, and count.

        A recurrent state may have been left half-way through its update, so nothing of it counts.
        """
        seq_id = running.job.seq_id
        _, last = self._backend.positions(seq_id)
        usable = facts.memory in ("full", "window")
        # The prompt's last token is decoded again: its logits are lost.
        most = running.position if running.generating else len(running.job.tokens) - 1
        position = min(last + 1, most) if usable else 0
        if not self._backend.remove(seq_id, position, -1):
            raise BackendFailure(f"sequence {seq_id} cannot go on after an aborted decode")
        running.position = position

    def _drop(self, running: Running, error: RequestError) -> None:
        running.sampler.close()
        self._running.remove(running)
        self._fail(running.job.request_id, error)

    def _fail(self, request_id: int, error: RequestError) -> None:
        self._outcomes.append(Failed(request_id, type(error).__name__, error.problem))

    def _finish_all(self) -> None:
        now = time.perf_counter()
        for running in [running for running in self._running if running.finish is not None]:
            running.sampler.close()
            if running.job.stream and (text := running.take_text()):
                self._outcomes.append(text)
            self._capture_due(running)
            if last := running.captures.last(running.position):
                self._capture(running, *last)
            self._running.remove(running)
            first, _ = self._backend.positions(running.job.seq_id)
            self._outcomes.append(running.finished(first, now))

    # --- over to the loop --------------------------------------------------------------------------------

    def _load_progress(self, done: float) -> bool:
        if done - self._load_told >= PROGRESS_STEP or done >= 1.0 > self._load_told:
            self._load_told = done
            self._call_loop(self._on_progress, done)
        return not self._stopping

    def _post(self) -> None:
        if self._outcomes:
            outcomes, self._outcomes = self._outcomes, []
            self._call_loop(self._deliver, outcomes)

    def _call_loop(self, function: Callable[..., object], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            # The loop is closed: nobody is left to tell. The thread ends by the stop flag, or as a daemon.
            self._stopping = True
