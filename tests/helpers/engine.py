"""An engine thread with a stub backend, driven from a test on the event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

from erllama_py.buffers import BufferPool
from erllama_py.cpus import ThreadChoice
from erllama_py.engine.backend import Backend
from erllama_py.engine.compute_threads import ComputeThreads, CpuShare
from erllama_py.engine.cpu_watch import CpuTimes
from erllama_py.engine.jobs import Died, Failed, Finished, Generate, Outcome
from erllama_py.engine.stub import StubBackend
from erllama_py.engine.thread import EngineThread
from erllama_py.options.model import SchedulerOpts, parse_model_config
from erllama_py.options.sampling import Sampling

GREEDY = Sampling(temperature=0.0)


def stub(**options: Any) -> StubBackend:
    """A stub backend; keywords are `StubOpts`, `context_opts` and `model_opts` as in a configuration."""
    sections: dict[str, Any] = {key: options.pop(key) for key in ("context_opts", "model_opts") if key in options}
    return StubBackend("test", parse_model_config({"backend": "stub", "stub": options, **sections}))


def generate(request_id: int, tokens: Sequence[int], **fields: Any) -> Generate:
    values: dict[str, Any] = {"seq_id": 0, "keep": 0, "limit": 1 << 30, "max_new_tokens": 8, "sampling": GREEDY}
    return Generate(request_id=request_id, tokens=list(tokens), **(values | fields))


def ends(request_id: int) -> Callable[[Outcome], bool]:
    """Whether an outcome is the last of this request; the thread's end is everybody's."""
    return lambda outcome: (
        isinstance(outcome, Died) or (isinstance(outcome, Finished | Failed) and outcome.request_id == request_id)
    )


class NoWatch:
    """A kernel that tells nothing."""

    def read(self) -> CpuTimes | None:
        return None


ONE_THREAD = ThreadChoice(few=1, many=1, fixed_few=True, fixed_many=True)


def fixed_threads(backend: Backend) -> ComputeThreads:
    """One thread, whatever happens."""
    return ComputeThreads(backend, ONE_THREAD, CpuShare(), NoWatch().read, lambda count: None)


class Driver:
    """An engine thread and everything that it has posted, in order."""

    def __init__(
        self, backend: StubBackend, buffers: BufferPool | None = None, threads: ThreadChoice = ONE_THREAD
    ) -> None:
        self.backend = backend
        self.batches: list[list[Outcome]] = []
        self.thread = EngineThread(
            backend, self._deliver, "test-engine", buffers or BufferPool(1 << 30), SchedulerOpts(), threads,
            lambda count: None,
        )  # fmt: skip
        self._news = anyio.Event()

    @property
    def outcomes(self) -> list[Outcome]:
        return [outcome for batch in self.batches for outcome in batch]

    def _deliver(self, batch: Sequence[Outcome]) -> None:
        self.batches.append(list(batch))
        self._news.set()

    async def until(self, done: Callable[[Outcome], bool]) -> Outcome:
        """Wait for the first outcome that `done` accepts."""
        with anyio.fail_after(20):
            while True:
                for outcome in self.outcomes:
                    if done(outcome):
                        return outcome
                self._news = anyio.Event()
                await self._news.wait()


@asynccontextmanager
async def engine(
    backend: StubBackend, buffers: BufferPool | None = None, threads: ThreadChoice = ONE_THREAD
) -> AsyncIterator[Driver]:
    """A loaded engine thread, stopped and joined at the end."""
    driver = Driver(backend, buffers, threads)
    await driver.thread.load(lambda done: None)
    try:
        yield driver
    finally:
        backend.release.set()
        assert await driver.thread.stop(20)
