"""A worker over a stub, without a thread: a test gives it jobs and ticks, and sees what each decode was made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar
from unittest.mock import patch

from erllama_py.buffers import BufferPool
from erllama_py.engine.backend import BackendFailure, DecodeStatus, ModelFacts, RestoreStatus, Slice
from erllama_py.engine.cells import Cells
from erllama_py.engine.jobs import Failed, Finished, Generate, Job, Outcome
from erllama_py.engine.stub import StubBackend
from erllama_py.engine.worker import Worker
from erllama_py.options.model import SchedulerOpts
from helpers.engine import fixed_threads, generate, stub

T = TypeVar("T")
Take = Callable[[int], memoryview | None]
SIZES: dict[str, Any] = {"n_ctx": 1024, "n_batch": 64, "n_ubatch": 32, "n_seq_max": 4}
MOST_TICKS = 5000  # for a test gone wrong: it shall fail rather than go on for ever


class Recorder:
    """A backend's decodes, noted down and timed by a clock of its own.

    Sequences in `broken` make every decode fail that they take part in.
    """

    def __init__(self, backend: StubBackend) -> None:
        self.decodes: list[list[tuple[int, int]]] = []  # of each decode: the sequences, and how many tokens of each
        self.broken: set[int] = set()
        self.now = 0.0  # seconds that decodes and copies have taken
        self.row_seconds, self.token_seconds, self.copy_seconds = 0.01, 0.001, 0.0
        self.copied_token_seconds = 0.0
        self._decode, self._capture, self._restore = backend.decode, backend.capture, backend.restore

    def clock(self) -> float:
        return self.now

    def capture(self, seq_id: int, start: int, end: int, take: Take) -> memoryview | None:
        self._copying(end - start)
        return self._capture(seq_id, start, end, take)

    def restore(self, seq_id: int, start: int, end: int, payload: memoryview) -> RestoreStatus:
        self._copying(end - start)
        return self._restore(seq_id, start, end, payload)

    def _copying(self, tokens: int) -> None:
        self.now += self.copy_seconds + tokens * self.copied_token_seconds

    def decode(self, slices: Sequence[Slice]) -> DecodeStatus:
        self.decodes.append([(part.seq_id, len(part.tokens)) for part in slices])
        self.now += self.row_seconds + sum(len(part.tokens) for part in slices) * self.token_seconds
        if self.broken & {part.seq_id for part in slices}:
            raise BackendFailure("the sequence is broken")
        return self._decode(slices)


class Scripted:
    """A sampler that draws given tokens, whatever the logits; an error among that is raised."""

    def __init__(self, draws: Iterable[int | Exception]) -> None:
        self._draws = iter(draws)
        self.closed = False
        self.accepted: list[int] = []

    def sample(self, index: int) -> int:
        drawn = next(self._draws)
        if isinstance(drawn, Exception):
            raise drawn
        return drawn

    def sample_from(self, logits: bytes) -> int:
        return self.sample(0)

    def forced(self) -> list[int]:
        return []

    def accept(self, tokens: Sequence[int]) -> None:
        self.accepted += tokens

    @property
    def used(self) -> tuple[int | float, ...]:
        return ()

    def replay(self, tokens: Sequence[int], used: tuple[int | float, ...]) -> None:
        self.accept(tokens)

    @property
    def is_over(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


class Bench:
    """See the module. Keywords are those of `stub`; `scheduler` are its options. `copies_count`: the times of copies
    are measured by the recorder's clock too, and decide whether more are made."""

    def __init__(
        self, scheduler: SchedulerOpts | None = None, nbytes: int = 1 << 30, copies_count: bool = False, **options: Any
    ) -> None:
        self.backend = stub(**options)
        self.facts: ModelFacts = self.backend.load(lambda done: True)
        self.recorder = Recorder(self.backend)
        self.backend.decode = self.recorder.decode  # type: ignore[method-assign]  # it stands before the stub's
        self.backend.capture = self.recorder.capture  # type: ignore[method-assign]  # it, too
        self.outcomes: list[Outcome] = []
        self.alone: list[int | None] = []
        self.backend.restore = self.recorder.restore  # type: ignore[method-assign]  # and it
        cells = self.cells = Cells(self.backend, BufferPool(nbytes), self.facts.n_ctx)
        if copies_count:
            cells = self.cells = Cells(self.backend, BufferPool(nbytes), self.facts.n_ctx, self.recorder.clock)
        options_ = scheduler or SchedulerOpts(prefill_chunk_size=32)
        self.worker = Worker(
            self.backend, cells, fixed_threads(self.backend), self.facts, options_, "bench", self.outcomes.extend,
            self.alone.append, self.recorder.clock,
        )  # fmt: skip

    @property
    def decodes(self) -> list[list[tuple[int, int]]]:
        """The sequences of each decode, and how many tokens of each."""
        return self.recorder.decodes

    def do(self, *jobs: Job) -> None:
        for job in jobs:
            self.worker.do(job)

    def script(self, job: Generate, draws: Iterable[int | Exception]) -> Scripted:
        """Begin a request that draws these tokens."""
        sampler = Scripted(draws)
        with patch.object(self.backend, "sampler", lambda sampling, history: sampler):
            self.do(job)
        return sampler

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self.worker.tick()

    def run(self) -> None:
        """Tick until nothing is left to do."""
        for _ in range(MOST_TICKS):
            if not self.worker.busy:
                self.worker.flush()
                return
            self.worker.tick()
        raise AssertionError("the worker does not come to rest")

    def of(self, kind: type[T], request_id: int | None = None) -> list[T]:
        """The outcomes of a kind, of one request."""
        found = [outcome for outcome in self.outcomes if isinstance(outcome, kind)]
        return [one for one in found if request_id is None or getattr(one, "request_id", None) == request_id]

    def ended(self, request_id: int) -> Finished | Failed:
        """How a request ended; it did so once."""
        ends: list[Finished | Failed] = [*self.of(Finished, request_id), *self.of(Failed, request_id)]
        assert len(ends) == 1
        return ends[0]

    def used(self) -> int:
        """Cells in use."""
        return self.backend._cells._used


def bench(**options: Any) -> Bench:
    """One of `SIZES`, where `context_opts` say nothing else."""
    return Bench(context_opts=SIZES | options.pop("context_opts", {}), **options)


def prompt(number: int, length: int = 10) -> list[int]:
    """Tokens that no other number's begin with."""
    return [number, *range(1, length)]


def alone(tokens: list[int], **fields: Any) -> Finished:
    """What a request comes to that has the model for itself."""
    one = bench()
    one.do(generate(1, tokens, **fields))
    one.run()
    end = one.ended(1)
    assert isinstance(end, Finished)
    return end
