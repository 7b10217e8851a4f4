"""An engine on a thread of this process: the event loop's side of it.

`load`, `submit`, `stop`, and `deliver`, which gets the outcomes. What the thread does is in `run`. It never waits for
the loop: outcomes are handed over with `call_soon_threadsafe`, so a busy loop delays what is seen, not what is decoded.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import anyio

from erllama_py.buffers import BufferPool
from erllama_py.cpus import ThreadChoice
from erllama_py.engine.backend import Backend, LoadCancelled, ModelFacts
from erllama_py.engine.jobs import Job, Outcome
from erllama_py.engine.rates import Rates
from erllama_py.engine.run import EngineRun, Told
from erllama_py.engine.work import Work
from erllama_py.options.model import SchedulerOpts
from erllama_py.stacks import begin_thread


class EngineThread:
    """One backend on a thread of its own. Everything public is called on the event loop. `on_threads(count)` is called
    there when the number of compute threads has changed."""

    def __init__(
        self, backend: Backend, deliver: Callable[[Sequence[Outcome]], None], name: str, buffers: BufferPool,
        scheduler: SchedulerOpts, threads: ThreadChoice, on_threads: Callable[[int], object],
        work: Work | None = None,
    ) -> None:  # fmt: skip
        self.ended = anyio.Event()
        self._load_over = anyio.Event()
        self._facts: ModelFacts | None = None
        self._on_progress: Callable[[float], object]
        self._deliver, self._buffers = deliver, buffers
        self._loop = asyncio.get_running_loop()
        told = Told(
            self._post, partial(self._call_loop, self._loaded), partial(self._call_loop, self._progress),
            partial(self._call_loop, on_threads), partial(self._call_loop, self.ended.set),
        )  # fmt: skip
        self._run = EngineRun(backend, told, name, buffers, scheduler, threads, work=work)
        self._thread = threading.Thread(target=self._run.run, name=name, daemon=True)

    def __repr__(self) -> str:
        state = "ended" if self.ended.is_set() else "stopping" if self._run.is_stopping else "running"
        return f"<EngineThread {self._thread.name!r} {state}>"

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

    async def warm(self, count: int, nbytes: int, run: Callable[..., Awaitable[object]]) -> None:
        """See `Engine.warm`."""
        await run(self._buffers.warm, count, nbytes)

    def submit(self, job: Job) -> None:
        """Queue a job. A `Cancel` also stops a decode that is under way for this request alone."""
        self._run.submit(job)

    @property
    def pid(self) -> int:
        """The process that it runs in."""
        return os.getpid()

    @property
    def failure(self) -> Exception | None:
        """What ended it, where it ended by itself."""
        return self._run.failure

    @property
    def work(self) -> Work:
        """What it has computed so far."""
        return self._run.work

    @property
    def rates(self) -> Rates:
        """What it has measured of computing and copying so far."""
        return self._run.rates

    def overdue(self) -> float | None:
        """For how many seconds a decode has run that takes far longer than those before it; None where none does."""
        return self._run.overdue()

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
        self._run.ask_to_stop()

    # --- called on the engine's thread -------------------------------------------------------------------

    def _post(self, outcomes: Sequence[Outcome]) -> None:
        self._call_loop(self._deliver, outcomes)

    def _call_loop(self, function: Callable[..., object], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed: there is no receiver, and no more work to do
            self._run.abandon()

    # --- then on the loop --------------------------------------------------------------------------------

    def _progress(self, done: float) -> None:
        self._on_progress(done)

    def _loaded(self, facts: ModelFacts | None) -> None:
        self._facts = facts
        self._load_over.set()
