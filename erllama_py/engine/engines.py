"""What a model's actor needs of an engine, wherever it runs, and the one for a backend."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol, cast

import anyio

from erllama_py.buffers import BufferPool
from erllama_py.cpus import ThreadChoice
from erllama_py.engine.backend import Backend, ModelFacts, ModelSource
from erllama_py.engine.jobs import Job, Outcome
from erllama_py.engine.rates import Rates
from erllama_py.engine.thread import EngineThread
from erllama_py.engine.work import Work
from erllama_py.options.model import SchedulerOpts

if TYPE_CHECKING:
    from erllama_py.engine.process.backend import RemoteBackend
    from erllama_py.engine.process.spare import SpareSlot


class Engine(Protocol):
    """Everything public is called on the event loop."""

    ended: anyio.Event  # once all of it is freed

    @property
    def pid(self) -> int | None:
        """The process that it runs in, once it has begun."""

    @property
    def failure(self) -> Exception | None:
        """What ended it, where it ended by itself."""

    @property
    def work(self) -> Work:
        """What it has computed so far."""

    @property
    def rates(self) -> Rates:
        """What it has measured of computing and copying so far; another object once that has changed."""

    async def load(self, on_progress: Callable[[float], object]) -> ModelFacts:
        """Begin, and wait until the model is loaded; `on_progress` gets fractions up to 1.0.

        Raises what the backend's `load` raised. A caller that is cancelled calls `stop`, as after any end.
        """

    async def warm(self, count: int, nbytes: int, run: Callable[..., Awaitable[object]]) -> None:
        """Have so many buffers of so many bytes in memory, so that the first copies need not wait for it; `run` calls a
        function on a thread."""

    def submit(self, job: Job) -> None:
        """Queue a job. A `Cancel` also stops a decode that is under way for this request alone."""

    def overdue(self) -> float | None:
        """For how many seconds a decode has run that takes far longer than those before it; None where none does."""

    async def stop(self, deadline: float = math.inf) -> bool:
        """Ask it to end and wait for that, at most `deadline` seconds; false if it still runs."""

    def ask_to_stop(self) -> None:
        """Have it end; more than once does no harm."""


def make_spare(model_id: str) -> SpareSlot:
    """The place of a model's spare process, empty still."""
    from erllama_py.engine.process.spare import SpareSlot

    return SpareSlot(model_id)


def make_engine(
    source: ModelSource, deliver: Callable[[Sequence[Outcome]], None], name: str, buffers: BufferPool,
    scheduler: SchedulerOpts, threads: ThreadChoice, on_threads: Callable[[int], object], work: Work,
    spare: SpareSlot | None = None,
) -> Engine:  # fmt: skip
    """The engine of a source. `deliver` gets the outcomes, on the loop; the last is `Died` where it ends by itself.
    `on_threads(count)` is called there when the number of compute threads has changed. `spare` is for one in a process
    of its own: what it may begin with."""
    if not hasattr(source, "decode"):  # nothing is computed in this process
        from erllama_py.engine.process.engine import EngineProcess

        remote = cast("RemoteBackend", source)
        remote.spare = spare
        return EngineProcess(remote, deliver, name, buffers, scheduler, threads, on_threads, work)
    backend = cast(Backend, source)
    return EngineThread(backend, deliver, name, buffers, scheduler, threads, on_threads, work)
