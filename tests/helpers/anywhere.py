"""An engine, on a thread or in a process of its own, driven from a test on the event loop: what both have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec

from erllama_py.buffers import BufferPool
from erllama_py.engine import make_source
from erllama_py.engine.backend import ModelFacts, ModelSource
from erllama_py.engine.compute_threads import PROCESS
from erllama_py.engine.engines import make_engine
from erllama_py.engine.jobs import Outcome
from erllama_py.engine.work import Work
from erllama_py.options.model import ModelConfig, SchedulerOpts
from erllama_py.options.process import Isolation
from helpers.engine import ONE_THREAD
from helpers.leftovers import open_files
from helpers.tiny_gguf import tiny_gguf

SIZES: dict[str, Any] = {
    "n_ctx": 512, "n_batch": 512, "n_ubatch": 64, "n_threads": 1, "n_threads_batch": 1, "n_seq_max": 4,
}  # fmt: skip


def configuration(isolation: Isolation, models: Path | None = None, **stub: Any) -> ModelConfig:
    """Of a stub with these options, or of the tiny model in the folder `models`."""
    fields: dict[str, Any] = {"isolation": isolation, "context_opts": SIZES}
    if models is None:
        fields |= {"backend": "stub", "stub": stub}
    else:
        fields |= {"backend": "llama", "model_path": str(tiny_gguf("dense", models)), "probe": False}
    return msgspec.convert(fields, ModelConfig)


BUFFERS = BufferPool(1 << 30)


class Anywhere:
    """An engine and everything that it has posted, in order."""

    def __init__(
        self, config: ModelConfig, lender: Anywhere | None = None, *, buffers: BufferPool | None = None,
        home: Path | None = None,
    ) -> None:  # fmt: skip
        self.source: ModelSource = make_source("test", config, home=home)
        if lender is not None:
            self.source.use_weights_of(lender.source)
        self.outcomes: list[Outcome] = []
        self.facts: ModelFacts
        self.progress: list[float] = []
        self.engine = make_engine(
            self.source, self._deliver, "test-engine", buffers or BUFFERS, SchedulerOpts(), ONE_THREAD,
            lambda count: None, Work(),
        )  # fmt: skip
        self._news = anyio.Event()

    def _deliver(self, batch: Sequence[Outcome]) -> None:
        self.outcomes += batch
        self._news.set()

    async def load(self) -> None:
        """See `Engine.load`."""
        self.facts = await self.engine.load(self.progress.append)

    async def until(self, done: Callable[[Outcome], bool]) -> Outcome:
        """Wait for the first outcome that `done` accepts."""
        with anyio.fail_after(60):
            while True:
                for outcome in self.outcomes:
                    if done(outcome):
                        return outcome
                self._news = anyio.Event()
                await self._news.wait()


@asynccontextmanager
async def running(config: ModelConfig, lender: Anywhere | None = None) -> AsyncIterator[Anywhere]:
    """A loaded engine, which has ended at the end, with all that it had."""
    anywhere = Anywhere(config, lender)
    try:
        await anywhere.load()
        yield anywhere
    finally:
        with anyio.CancelScope(shield=True):
            assert await anywhere.engine.stop(60)


@contextmanager
def nothing_left() -> Iterator[None]:
    """No descriptor more at the end than at the beginning, but for what all engines of this process share."""
    BUFFERS.share()
    if (row := PROCESS.lend()) is not None:
        PROCESS.take_back(row[1])
    before = open_files()
    yield
    assert not open_files() - before


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
