"""The thread that owns one model's context, from the loading of its weights to their end.

The event loop's side: `load`, `submit`, `stop`, and `deliver`, which gets the outcomes. The thread's side: load,
then take the jobs that came and tick (see `worker`) while there is work, else wait for a job.

The thread never waits for the loop: outcomes are handed over with `call_soon_threadsafe`, so a busy loop delays what is
seen, not what is decoded. Any exception ends the thread; `failure` keeps it and `Died` is the last outcome. However the
thread ends, the backend is closed on it, so native memory is free once `ended` is set, after `Died`.
"""

from __future__ import annotations

import asyncio
import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial

import anyio
import msgspec

from erllama_py.buffers import BufferPool
from erllama_py.cpus import ThreadChoice, usable_cpus
from erllama_py.engine.backend import Backend, LoadCancelled, ModelFacts
from erllama_py.engine.cells import Cells
from erllama_py.engine.compute_threads import PROCESS, ComputeThreads
from erllama_py.engine.cpu_watch import CpuWatch
from erllama_py.engine.failure import failure_of
from erllama_py.engine.heartbeat import Heart
from erllama_py.engine.jobs import Cancel, Capture, Died, Drop, EndThinking, Grant, Job, Outcome, Restore
from erllama_py.engine.rates import Rates
from erllama_py.engine.work import Work
from erllama_py.engine.worker import Worker
from erllama_py.options.model import SchedulerOpts
from erllama_py.stacks import begin_thread
from erllama_py.watch.log import get_logger

# How long an idle engine keeps its part of the CPUs. One request follows another within a few
# milliseconds; if the part were free in between, another engine would begin a batch with all CPUs, and for as long as
# that takes there would be more threads than CPUs.
LULL_SECONDS = 0.05

PROGRESS_STEP = 0.01  # a load reports each hundredth: enough for a bar, and a few hundred bytes in total


class EngineThread:
    """One backend on a thread of its own. Everything public is called on the event loop."""

    def __init__(
        self, backend: Backend, deliver: Callable[[Sequence[Outcome]], None], name: str, buffers: BufferPool,
        scheduler: SchedulerOpts, threads: ThreadChoice, on_threads: Callable[[int], object],
        work: Work | None = None,
    ) -> None:  # fmt: skip
        self.failure: Exception | None = None
        self.ended = anyio.Event()
        self._heart: Heart | None = None  # once it has loaded
        self._cells: Cells | None = None  # the same
        self._load_over = anyio.Event()
        self._facts: ModelFacts | None = None
        self._load_reported = 0.0  # the fraction last reported
        self._on_progress: Callable[[float], object]
        self._backend = backend
        self._buffers, self._scheduler = buffers, scheduler
        self._deliver = deliver
        self.work = Work() if work is None else work
        self._choice, self._on_threads = threads, on_threads
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._todo: deque[Job | None] = deque()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._stopping = False
        self._cancelled: set[int] = set()  # requests with a `Cancel` among the jobs
        self._sole: int | None = None  # the request that a decode is under way for, when it is only one's
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __repr__(self) -> str:
        state = "ended" if self.ended.is_set() else "stopping" if self._stopping else "running"
        return f"<EngineThread {self._thread.name!r} {state}, {self._jobs.qsize()} jobs>"

    async def load(self, on_progress: Callable[[float], object]) -> ModelFacts:
        """Start the thread and wait until the model is loaded; `on_progress` gets fractions up to 1.0.

        Raises what the backend's `load` raised. A caller that is cancelled calls `stop`, as after any end.
        """
        self._on_progress = on_progress
        try:
            begin_thread(self._thread)
        except RuntimeError:  # the system has no thread left: nothing to wait for
            self.ended.set()
            raise
        await self._load_over.wait()
        if self._facts is None:
            raise self.failure or LoadCancelled
        return self._facts

    def submit(self, job: Job) -> None:
        """Queue a job. A `Cancel` also stops a decode that is under way for this request alone."""
        # With the lock, the thread never sees the flag without the job that is the reason for it, so no decode is
        # ever aborted for nothing; nor for one request when others take part in it.
        with self._lock:
            self._jobs.put(job)
            if isinstance(job, Cancel):
                self._cancelled.add(job.request_id)
                if self._sole == job.request_id:
                    self._backend.abort(True)

    @property
    def rates(self) -> Rates:
        """What it has measured of computing and copying so far."""
        return Rates() if self._cells is None else self._cells.rates

    def overdue(self) -> float | None:
        """For how many seconds a decode has run that takes far longer than those before it; None where none does."""
        return None if self._heart is None else self._heart.overdue()

    async def stop(self, deadline: float = math.inf) -> bool:
        """Ask the thread to end and wait for it, at most `deadline` seconds; false if it still runs."""
        self.ask_to_stop()
        with anyio.move_on_after(deadline):
            await self.ended.wait()
            if self._thread.ident is not None:  # it was begun
                self._thread.join()  # `ended` is set in its last step
        return self.ended.is_set()

    def ask_to_stop(self) -> None:
        """Have the thread end; more than once does no harm."""
        self._stopping = True
        with self._lock:
            self._jobs.put(None)
            self._backend.abort(True)

    # --- on the thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        worker: Worker | None = None
        try:
            facts = self._facts = self._backend.load(self._load_progress)
            cells = self._cells = Cells(self._backend, self._buffers, facts.n_ctx)
            choice = msgspec.structs.replace(self._choice, on_gpu=facts.on_gpu)
            on_count, watch = partial(self._call_loop, self._on_threads), CpuWatch(usable_cpus()).read
            threads = ComputeThreads(self._backend, choice, PROCESS, watch, on_count)
            worker = Worker(
                self._backend, cells, threads, facts, self._scheduler, self._thread.name, self._post, self._alone,
                work=self.work,
            )  # fmt: skip
            self._heart = worker.heart
            self._call_loop(self._load_over.set)
            self._serve(worker)
        except LoadCancelled:
            pass
        except Exception as error:
            self.failure = error
        except BaseException as error:  # of a thread: nothing that ends the process
            self.failure = failure_of(error).error()
            self.failure.__cause__ = error
        finally:
            self._end(worker)

    def _end(self, worker: Worker | None) -> None:
        """Report the end first: freeing the memory may take long, hang or fail, and open calls must not wait for
        that."""
        if worker is not None:
            worker.flush()
        if self.failure is not None:
            self._post([Died(failure_of(self.failure))])
        self._call_loop(self._load_over.set)
        try:
            with ExitStack() as ending:
                ending.callback(self._call_loop, self.ended.set)
                ending.callback(self._backend.close)
                if worker is not None:
                    ending.callback(worker.close)
        except BaseException as error:
            get_logger(engine=self._thread.name).error("an engine that ended raised", exc_info=error)

    def _serve(self, worker: Worker) -> None:
        while not self._stopping:
            self._take_jobs(worker)
            self._do_jobs(worker)
            if not self._stopping:
                worker.tick()

    def _take_jobs(self, worker: Worker) -> None:
        """All jobs that have come; waits for one only when there is nothing to do."""
        if not self._todo and not worker.busy:
            self._todo.append(self._next_job(worker))
        with self._lock:
            self._backend.abort(False)
            self._cancelled.clear()
            while not self._jobs.empty():
                job = self._jobs.get()
                if job is not None and self._may_pass(worker, job):
                    worker.do(job)
                else:
                    self._todo.append(job)

    def _next_job(self, worker: Worker) -> Job | None:
        if self._jobs.empty():
            worker.threads.pause()
        with suppress(queue.Empty):
            return self._jobs.get(timeout=LULL_SECONDS)
        worker.threads.rest()
        return self._jobs.get()

    def _may_pass(self, worker: Worker, job: Job) -> bool:
        """Whether a job may go before pending copies, of which one is made a tick: a `Cancel` of a request at work,
        which would keep decoding, its `EndThinking`, and its `Grant`, without which it would stall. Not a grant after a
        drop, which may free its cells. All other jobs keep their order: copies fill the sequences that requests begin
        in."""
        match job:
            case Cancel(request_id) | EndThinking(request_id):
                return worker.runs(request_id)
            case Grant(request_id):
                return worker.runs(request_id) and not any(isinstance(waiting, Drop) for waiting in self._todo)
            case _:
                return False

    def _do_jobs(self, worker: Worker) -> None:
        while self._todo and not self._stopping:
            job = self._todo.popleft()
            if job is not None:  # `stop` wakes the thread with None
                worker.do(job)
            if worker.busy and isinstance(job, Restore | Capture):
                break  # one copy of megabytes in a tick: the other sequences go on decoding in between

    def _alone(self, request_id: int | None) -> None:
        """A decode of one request begins, which its `Cancel` may stop; or it is over."""
        with self._lock:
            self._sole = request_id
            if request_id in self._cancelled:
                self._backend.abort(True)

    # --- over to the loop --------------------------------------------------------------------------------

    def _load_progress(self, done: float) -> bool:
        if done - self._load_reported >= PROGRESS_STEP or done >= 1.0 > self._load_reported:
            self._load_reported = done
            self._call_loop(self._on_progress, done)
        return not self._stopping

    def _post(self, outcomes: Sequence[Outcome]) -> None:
        self._call_loop(self._deliver, outcomes)

    def _call_loop(self, function: Callable[..., object], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            # The loop is closed: there is no receiver. The thread ends by the stop flag, or as a daemon.
            self._stopping = True
