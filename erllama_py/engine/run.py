"""One engine from the loading of its weights to their end: what its thread does, be it in this process or in a child.

`run` is the thread's body: load, then take the jobs that came and tick (see `worker`) while there is work, else wait
for a job. `submit`, `ask_to_stop` and what is read come from any thread. What happens is told to a `Told`, on the
engine's thread, which must never wait there.

Any exception ends the run; `failure` keeps it and `Died` is the last outcome. However it ends, the backend is closed on
this thread, so native memory is free once `ended` is told, after `Died`.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import NamedTuple

import msgspec

from erllama_py.buffers import BufferPool
from erllama_py.cpus import ThreadChoice, usable_cpus
from erllama_py.engine.backend import Backend, LoadCancelled, ModelFacts
from erllama_py.engine.cells import Cells
from erllama_py.engine.compute_threads import PROCESS, ComputeThreads, CpuShare
from erllama_py.engine.cpu_watch import CpuWatch
from erllama_py.engine.evidence import with_report
from erllama_py.engine.failure import failure_of
from erllama_py.engine.heartbeat import Heart
from erllama_py.engine.jobs import Cancel, Capture, Died, Drop, EndThinking, Grant, Job, Outcome, Restore
from erllama_py.engine.rates import Rates
from erllama_py.engine.recorder import Recorder
from erllama_py.engine.work import Work
from erllama_py.engine.worker import Worker
from erllama_py.options.model import SchedulerOpts
from erllama_py.watch.log import get_logger

# How long an idle engine keeps its part of the CPUs. One request follows another within a few
# milliseconds; if the part were free in between, another engine would begin a batch with all CPUs, and for as long as
# that takes there would be more threads than CPUs.
LULL_SECONDS = 0.05

PROGRESS_STEP = 0.01  # a load reports each hundredth: enough for a bar, and a few hundred bytes in total


class Told(NamedTuple):
    """Who is told what, each on the engine's thread."""

    post: Callable[[Sequence[Outcome]], None]
    loaded: Callable[[ModelFacts | None], object]  # the load is over; None where it failed, see `EngineRun.failure`
    progress: Callable[[float], object]  # of the load: fractions up to 1.0
    on_threads: Callable[[int], object]  # the number of compute threads has changed
    ended: Callable[[], object]  # everything is freed
    failed: Callable[[BaseException], object] = lambda error: None  # it is about to end with that; may end the process


class Steps:
    """Tells how much of a load is done, as a fraction, in steps, and its end."""

    def __init__(self, tell: Callable[[float], object]) -> None:
        self._tell, self._told = tell, 0.0

    def reach(self, done: float) -> None:
        """So much is done."""
        if done - self._told >= PROGRESS_STEP or done >= 1.0 > self._told:
            self._told = done
            self._tell(done)


class EngineRun:
    """See the module."""

    def __init__(
        self, backend: Backend, told: Told, name: str, buffers: BufferPool, scheduler: SchedulerOpts,
        threads: ThreadChoice, *, share: CpuShare = PROCESS, work: Work | None = None, recorder: Recorder | None = None,
    ) -> None:  # fmt: skip
        self.failure: Exception | None = None
        self.name = name
        self.work = Work() if work is None else work
        self.recorder = Recorder() if recorder is None else recorder
        self._backend, self._told = backend, told
        self._buffers, self._scheduler = buffers, scheduler
        self._choice, self._share = threads, share
        self._heart: Heart | None = None  # once it has loaded
        self._cells: Cells | None = None  # the same
        self._steps = Steps(told.progress)
        self._lock = threading.Lock()
        self._todo: deque[Job | None] = deque()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._stopping = False
        self._cancelled: set[int] = set()  # requests with a `Cancel` among the jobs
        self._sole: int | None = None  # the request that a decode is under way for, when it is only one's

    def __repr__(self) -> str:
        return f"<EngineRun {self.name!r} {'stopping' if self._stopping else 'running'}, {self._jobs.qsize()} jobs>"

    # --- from any thread -------------------------------------------------------------------------------

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

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to end."""
        return self._stopping

    def overdue(self) -> float | None:
        """For how many seconds a decode has run that takes far longer than those before it; None where none does."""
        return None if self._heart is None else self._heart.overdue()

    def ask_to_stop(self) -> None:
        """Have it end; more than once does no harm."""
        self._stopping = True
        with self._lock:
            self._jobs.put(None)
            self._backend.abort(True)

    def abandon(self) -> None:
        """On the engine's thread, where nobody is left to be told anything: it ends with the tick."""
        self._stopping = True

    # --- on the thread ---------------------------------------------------------------------------------

    def run(self) -> None:
        """The thread's body; it does not raise."""
        worker: Worker | None = None
        try:
            self.recorder.begin("load")
            facts = self._backend.load(self._load_progress)
            worker = self._made(facts)
            self._told.loaded(facts)
            self._serve(worker)
        except LoadCancelled:
            pass
        except Exception as error:
            self._told.failed(error)
            self.recorder.fail()
            self.failure = with_report(error, self.recorder)
        except BaseException as error:  # of a thread: nothing that ends the process
            self._told.failed(error)
            self.recorder.fail()
            self.failure = with_report(failure_of(error).error(), self.recorder)
            self.failure.__cause__ = error
        finally:
            self._end(worker)

    def _made(self, facts: ModelFacts) -> Worker:
        cells = self._cells = Cells(self._backend, self._buffers, facts.n_ctx, recorder=self.recorder)
        choice = msgspec.structs.replace(self._choice, on_gpu=facts.on_gpu)
        threads = ComputeThreads(
            self._backend, choice, self._share, CpuWatch(usable_cpus()).read, self._told.on_threads
        )
        worker = Worker(
            self._backend, cells, threads, facts, self._scheduler, self.name, self._told.post, self._alone,
            work=self.work, recorder=self.recorder,
        )  # fmt: skip
        self._heart = worker.heart
        return worker

    def _end(self, worker: Worker | None) -> None:
        """Report the end first: freeing the memory may take long, hang or fail, and open calls must not wait for
        that."""
        if worker is not None:
            worker.flush()
        if self.failure is not None:
            self._told.post([Died(failure_of(self.failure))])
        if worker is None:
            self._told.loaded(None)
        self.recorder.begin("close")
        try:
            with ExitStack() as ending:
                ending.callback(self._told.ended)
                ending.callback(self.recorder.begin, "ended")
                ending.callback(self._backend.close)
                if worker is not None:
                    ending.callback(worker.close)
        except BaseException as error:
            get_logger(engine=self.name).error("an engine that ended raised", exc_info=error)

    def _serve(self, worker: Worker) -> None:
        while not self._stopping:
            self._take_jobs(worker)
            self._do_jobs(worker)
            if not self._stopping:
                worker.tick()
            worker.heart.count()
            self.recorder.begin("between")

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
        self.recorder.begin("idle")
        if self._jobs.empty():
            worker.threads.pause()
        try:
            with suppress(queue.Empty):
                return self._jobs.get(timeout=LULL_SECONDS)
            worker.threads.rest()
            return self._jobs.get()
        finally:
            self.recorder.begin("between")

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

    def _load_progress(self, done: float) -> bool:
        self.recorder.beat()
        self._steps.reach(done)
        return not self._stopping
