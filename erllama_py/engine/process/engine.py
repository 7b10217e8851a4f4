"""An engine in a process of its own: the event loop's side of it, with the face of `EngineThread`.

The process belongs to the engine that loads the weights: it begins with its load and ends with its stop. A companion's
engine is a guest in it. Where the process dies, what it had sent is delivered first, then `Died`, and `failure` says
what is known.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence

import anyio

from erllama_py.buffers import BufferPool
from erllama_py.cpus import ThreadChoice
from erllama_py.engine.backend import LoadCancelled, ModelFacts
from erllama_py.engine.evidence import died, with_report
from erllama_py.engine.failure import failure_of
from erllama_py.engine.jobs import Died, Job, Outcome
from erllama_py.engine.pace import patience
from erllama_py.engine.process.backend import RemoteBackend
from erllama_py.engine.process.child import END_SECONDS, Child
from erllama_py.engine.process.life.death import Death
from erllama_py.engine.process.wire.channel import LoopChannel, socketpair
from erllama_py.engine.process.wire.counted import Counted
from erllama_py.engine.process.wire.descriptors import Descriptors, close_all
from erllama_py.engine.process.wire.frames import (
    BadFrame,
    EndEngine,
    Frame,
    Loaded,
    LoadProgress,
    Outcomes,
    StartEngine,
    ThreadsUsed,
    Warm,
    path_of,
)
from erllama_py.engine.process.wire.pages import new_page
from erllama_py.engine.process.wire.payloads import Packer
from erllama_py.engine.rates import Rates
from erllama_py.engine.recorder import Doing, Recorder
from erllama_py.engine.work import Work
from erllama_py.options.model import SchedulerOpts
from erllama_py.watch.log import get_logger


class EngineProcess:
    """See the module. Everything is called on the event loop."""

    def __init__(
        self, source: RemoteBackend, deliver: Callable[[Sequence[Outcome]], None], name: str, buffers: BufferPool,
        scheduler: SchedulerOpts, threads: ThreadChoice, on_threads: Callable[[int], object],
        work: Work | None = None,
    ) -> None:  # fmt: skip
        self.failure: Exception | None = None
        self.ended = anyio.Event()
        self.rates = Rates()
        self._source, self._deliver, self._name, self._buffers = source, deliver, name, buffers
        self._scheduler, self._threads, self._on_threads = scheduler, threads, on_threads
        self._work = Work() if work is None else work
        self._loop = asyncio.get_running_loop()
        self._on_progress: Callable[[float], object]
        self._load_over = anyio.Event()
        self._facts: ModelFacts | None = None
        self._child: Child | None = None
        self._number = 0
        self._channel: LoopChannel | None = None
        self._packer: Packer | None = None
        self._came = Counted("outcomes of its engine")
        self._recorder = Recorder()
        self._death: Death | None = None
        self._child_doing: Doing | None = None  # what anything in the process did when it died
        self._hears = self._stopping = False
        self._killer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "ended" if self.ended.is_set() else "stopping" if self._stopping else "running"
        return f"<EngineProcess {self._name!r} {state} in {self._child}>"

    @property
    def pid(self) -> int | None:
        """Its process."""
        return None if self._child is None else self._child.process.pid

    @property
    def work(self) -> Work:
        """What it has computed so far."""
        self._recorder.copy_work(self._work)
        return self._work

    async def load(self, on_progress: Callable[[float], object]) -> ModelFacts:
        """Begin the process, and wait until the model is loaded; `on_progress` gets fractions up to 1.0.

        Raises what the backend's `load` raised there, and `CannotSpawn`. A caller that is cancelled calls `stop`, as
        after any end.
        """
        self._on_progress = on_progress
        try:
            child = self._child = self._source.begin_child(self._buffers)
            if self._source.owns_child and child.process.pid is None:  # not a spare one, which runs
                await child.start()
            reading = self._source.read_words()
            if reading is not None:
                await reading.tried
            self._begin(child)
        except BaseException:
            self.ended.set()
            raise
        await self._load_over.wait()
        if self._facts is None:
            raise self.failure or LoadCancelled
        if reading is not None:
            await reading.read
        self._source.keep_spare(self._buffers)
        return self._facts

    def _begin(self, child: Child) -> None:
        source, (mine, theirs), page = self._source, socketpair(), -1
        try:
            page, self._recorder = new_page()
            self._channel = LoopChannel(mine, self._loop, self._on_frame, self._on_end)
        except OSError:
            close_all((mine.detach(), theirs.detach(), page))
            self._recorder.keep()  # its page holds another descriptor
            raise
        self._hears = True
        self._packer = child.payloads.packer()
        self._number = source.number = child.new_number()
        frame = StartEngine(
            engine=self._number, name=self._name, model_id=source.model_id,
            config=source.engine_config, path=path_of(source.config),
            scheduler=self._scheduler, threads=self._threads, weights_of=source.lender_number,
            home=None if source.home is None else os.fsencode(source.home),
        )  # fmt: skip
        child.start_engine(frame, theirs.detach(), page, self._recorder, self._child_died)

    def submit(self, job: Job) -> None:
        """Queue a job. A `Cancel` also stops a decode that is under way for this request alone."""
        if self._channel is not None and self._packer is not None:
            if self._child is not None:
                self._child.sent(self._number)
            frame, descriptors = self._packer.jobs([job])
            self._channel.send(frame, descriptors, kept=True)

    async def warm(self, count: int, nbytes: int, run: Callable[..., Awaitable[object]]) -> None:
        """See `Engine.warm`. They are its process's."""
        if self._channel is not None:
            self._channel.send(Warm(count, nbytes))

    def overdue(self) -> float | None:
        """For how many seconds a decode has run that takes far longer than those before it; None where none does."""
        doing = self._recorder.doing()
        if doing.operation not in ("prefill", "decode"):
            return None
        seconds = time.monotonic() - doing.since
        return seconds if seconds > patience(self._recorder.pace(), max(1, doing.tokens)) else None

    async def stop(self, deadline: float = math.inf) -> bool:
        """Ask it to end and wait for it, at most `deadline` seconds; false if it still runs."""
        self.ask_to_stop()
        with anyio.move_on_after(deadline):
            await self.ended.wait()
            if self._child is not None and self._source.owns_child:
                await self._child.end()
            if self._killer is not None:
                self._killer.cancel()
            self._source.close()
            return True
        return False

    def ask_to_stop(self) -> None:
        """Have it end; more than once does no harm. A process that does not end is killed."""
        if self._stopping:
            return
        self._stopping = True
        if self._channel is not None:
            self._channel.send(EndEngine())
        if self._child is None:
            return
        if not self._source.owns_child:
            self._child.is_to_leave(self._number)
        elif self._facts is None:
            self._child.process.kill("killed", "its load was cancelled")
        else:
            self._killer = self._loop.call_later(END_SECONDS, self._kill)

    def _kill(self) -> None:
        if self._child is not None:
            self._child.process.kill("killed", f"it was told to end, and did not within {END_SECONDS:g} s")

    # --- what comes ----------------------------------------------------------------------------------------------

    def _on_frame(self, frame: Frame, descriptors: Descriptors) -> None:
        match frame:
            case Outcomes():
                try:
                    self._came.add(len(frame.outcomes), frame.total)
                except BadFrame as problem:
                    self._refuse(problem)
                    return
                self._post(frame, descriptors)
            case Loaded(facts):
                self._facts = facts
                self._load_over.set()
            case LoadProgress(fraction):
                self._on_progress(fraction)
            case ThreadsUsed(count):
                self._on_threads(count)
            case EndEngine(failure):
                if failure is not None and self.failure is None:
                    self.failure = with_report(failure.error(), self._recorder, self.pid)
                self._over()

    def _post(self, frame: Outcomes, descriptors: Descriptors) -> None:
        assert self._child is not None
        if frame.rates is not None:
            self.rates = frame.rates
        outcomes = self._child.payloads.open_outcomes(frame, descriptors)
        if isinstance(outcomes[-1], Died):
            self.failure = with_report(outcomes[-1].failure.error(), self._recorder, self.pid)
        self._recorder.copy_work(self._work)
        self._deliver(outcomes)

    def _refuse(self, problem: BadFrame) -> None:
        """It goes on as if something else had happened: nothing of what follows counts."""
        if self._channel is not None:
            self._channel.close()
        self._on_end(problem)

    def _on_end(self, problem: BadFrame | None) -> None:
        """Nothing more comes: the process is dead, or of no use."""
        self._hears = False
        if problem is not None and self._child is not None:
            self._child.process.kill("killed", str(problem))
        elif self._death is None:  # it is about to be told
            self._loop.call_later(END_SECONDS, self._end_deaf)
        self._look_for_end()

    def _end_deaf(self) -> None:
        if self._death is None and self._child is not None:
            self._child.process.kill("killed", "it had closed the socket that its engine is told through")

    def _child_died(self, death: Death, doing: Doing | None) -> None:
        self._death, self._child_doing = death, doing
        if self._channel is not None:
            self._channel.is_dead()
        self._look_for_end()

    def _look_for_end(self) -> None:
        """It has ended with its process: once that is known, and all that it had sent is delivered."""
        if self._death is None or self._hears or self.ended.is_set():
            return
        if self._stopping:
            self._log_death(self._death)
        elif self.failure is None:
            self.failure = died(self._death, self._recorder, self._child_doing)
            self._deliver([Died(failure_of(self.failure))])
        self._over()

    def _log_death(self, death: Death) -> None:
        """One that was to end has ended, if not in order: its memory is free all the same."""
        if death.reason is not None and self._facts is not None:
            get_logger(engine=self._name).warning("a process that was to end has crashed", problem=death.problem)

    def _over(self) -> None:
        self._recorder.keep()
        self._recorder.copy_work(self._work)
        if self._channel is not None:
            self._channel.close()
        if self._child is not None:
            self._child.left(self._number)
        self._hears = False
        self._load_over.set()
        self.ended.set()
