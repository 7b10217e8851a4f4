"""A child's side of one engine: its thread, and the socket that its jobs come through.

Three threads: the engine's own, which posts and never waits; one that takes jobs in; and the channel's, which sends
what had no room at once. A fourth begins where something is to be made for a sampler, see `preparing`.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from erllama_py.buffers import BufferPool
from erllama_py.engine.backend import BackendFailure
from erllama_py.engine.children.traces import in_frame
from erllama_py.engine.children.uncaught import end_with, is_of_memory
from erllama_py.engine.failure import failure_of
from erllama_py.engine.jobs import Outcome
from erllama_py.engine.making import backend_of
from erllama_py.engine.no_memory import says_no_memory
from erllama_py.engine.process.inside.preparing import Preparing
from erllama_py.engine.process.wire.channel import BlockingChannel
from erllama_py.engine.process.wire.counted import Counted
from erllama_py.engine.process.wire.descriptors import Descriptors
from erllama_py.engine.process.wire.frames import (
    EndEngine,
    Frame,
    Jobs,
    Loaded,
    LoadProgress,
    StartEngine,
    ThreadsUsed,
    Warm,
    config_of,
)
from erllama_py.engine.process.wire.payloads import Payloads
from erllama_py.engine.rates import Rates
from erllama_py.engine.recorder import Recorder
from erllama_py.engine.run import EngineRun, Told
from erllama_py.errors import ErllamaError
from erllama_py.stacks import begin_thread

if TYPE_CHECKING:
    from erllama_py.engine.backend import Backend, ModelFacts

END_SECONDS = 20.0  # an engine that does not end by then ends with the process


class EngineServer:
    """See the module. `lender` has the weights that this one uses, as a guest where another engine runs over them."""

    def __init__(
        self, start: StartEngine, sock: socket.socket, recorder: Recorder, lender: Backend | None,
        buffers: BufferPool, payloads: Payloads, *, is_guest: bool,
    ) -> None:  # fmt: skip
        self.is_over = False
        self._is_guest = is_guest
        self._buffers, self._payloads, self._packer = buffers, payloads, payloads.packer()
        self._channel = BlockingChannel(sock, start.name)
        self._came = Counted("jobs of an engine")
        home = None if start.home is None else Path(os.fsdecode(start.home))
        self.backend = backend_of(start.model_id, config_of(start), home)
        if lender is not None:
            self.backend.use_weights_of(lender)
        told = Told(self._post, self._loaded, self._progress, self._threads_used, self._ended, self._failed)
        self._run = EngineRun(
            self.backend, told, start.name, buffers, start.scheduler, start.threads, recorder=recorder
        )
        self._preparing = Preparing(self.backend.vocabulary, self._run.submit, start.name)
        self._rates = Rates()  # as the parent knows them
        self._thread = threading.Thread(target=in_frame(start.engine, self._run.run), name=start.name, daemon=True)
        self._receiver = threading.Thread(target=self._receive, name=f"{start.name}-jobs", daemon=True)
        begin_thread(self._receiver)
        begin_thread(self._thread)

    def __repr__(self) -> str:
        return f"<EngineServer of {self._run}>"

    def end(self) -> None:
        """Ask it to end, and wait for that, in bounded time."""
        self._run.ask_to_stop()
        self._thread.join(END_SECONDS)

    # --- on the engine's thread ------------------------------------------------------------------------

    def _post(self, outcomes: Sequence[Outcome]) -> None:
        rates = self._run.rates
        is_news = measured(rates) != measured(self._rates)  # the credit alone changes with each decode
        if is_news:
            self._rates = rates
        frame, descriptors = self._packer.outcomes(outcomes, rates if is_news else None)
        self._channel.post(frame, descriptors, kept=True)

    def _loaded(self, facts: ModelFacts | None) -> None:
        if facts is not None:
            self._preparing.n_ctx = facts.n_ctx
            self._channel.post(Loaded(facts))

    def _progress(self, done: float) -> None:
        self._channel.post(LoadProgress(done))

    def _threads_used(self, count: int) -> None:
        self._channel.post(ThreadsUsed(count))

    def _ended(self) -> None:
        failure = self._run.failure
        self._channel.post(EndEngine(None if failure is None else failure_of(failure)))
        self.is_over = True

    def _failed(self, error: BaseException) -> None:
        """Where memory is short nothing ends in order; and the process ends with the engine that owns it anyway."""
        of_backend = isinstance(error, BackendFailure) and says_no_memory(str(error))
        of_python = is_of_memory(error) and not isinstance(error, ErllamaError)
        if of_python or (of_backend and not self._is_guest):
            end_with(error)

    # --- on the receiver's thread ----------------------------------------------------------------------

    def _receive(self) -> None:
        """Until the parent has nothing more to say. What goes wrong here ends the process: jobs would be lost."""
        try:
            while (got := self._channel.receive()) is not None:
                frame, descriptors = got
                with descriptors:
                    self._do(frame, descriptors)
                del frame, got  # the payloads in them are let go of when the jobs are done
            self._preparing.end()
            self._run.ask_to_stop()
            self._thread.join()
            self._channel.close()
        except BaseException as error:
            end_with(error)

    def _do(self, frame: Frame, descriptors: Descriptors) -> None:
        match frame:
            case Jobs(jobs, total=total):
                self._came.add(len(jobs), total)
                for job in self._payloads.open_jobs(frame, descriptors):
                    self._preparing.put(job)
            case Warm(count, nbytes):
                self._buffers.warm(count, nbytes)
            case EndEngine():
                self._run.ask_to_stop()


def measured(rates: Rates) -> object:
    """What an engine has found out."""
    return rates.computed, rates.out, rates.into, rates.longest
