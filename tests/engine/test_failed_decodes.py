"""Nothing that a failed decode has computed is in a reply, or in a row: on both backends, with every kind of memory.

Decodes of several requests fail as the die falls, and leave wrong cells behind, as many as one that fails half-way may.
Requests come and go meanwhile, are parked, share beginnings and are cut back (see `helpers.side_by_side`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.engine import fixed_threads, generate
from helpers.side_by_side import ENDLESS, REPLY, SEQUENCES, Crowd, Maker, alone, prompts
from helpers.tiny_gguf import KINDS
from helpers.worker import bench, prompt

from erllama_py.buffers import BufferPool
from erllama_py.engine.backend import Backend, BackendFailure, DecodeStatus, MemoryKind, Slice
from erllama_py.engine.cells import Cells
from erllama_py.engine.jobs import Cancel, Capture, Captured, CapturePlan, Failed, Finished, Outcome, Park
from erllama_py.engine.worker import Worker
from erllama_py.options.model import SchedulerOpts

ODDS = 0.25  # of a failure, for a decode of several
MORE = 4  # tokens that follow a reply


class Failing:
    """A backend whose decodes of several slices fail as the die falls. What it writes then is wrong."""

    def __init__(self, backend: Backend, dice: random.Random) -> None:
        self.failures = 0
        self._decode, self._dice = backend.decode, dice
        backend.decode = self.decode  # type: ignore[method-assign]  # it stands before the backend's

    def decode(self, slices: Sequence[Slice]) -> DecodeStatus:
        if len(slices) < 2 or self._dice.random() > ODDS:
            return self._decode(slices)
        self.failures += 1
        some = slices[: self._dice.randrange(1, len(slices) + 1)]
        self._decode([Slice(one.seq_id, one.start, [token ^ 1 for token in one.tokens], False) for one in some])
        raise BackendFailure("a decode was told to fail")


class Watched(Crowd):
    """All that its requests have saved, also from what they leave behind."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.saved: dict[int, list[Captured]] = {number: [] for number in self.asked}

    def _follow(self, outcome: Outcome) -> None:
        if isinstance(outcome, Captured) and outcome.payload is not None:
            self.saved[outcome.request_id].append(outcome)
        if isinstance(outcome, Finished) and (left := outcome.held - outcome.captured_to) and outcome.captured_to:
            seq_id, end = self.at[outcome.request_id], outcome.held
            self.worker.do(Capture(
                request_id=outcome.request_id, seq_id=seq_id, start=end - left, end=end, reason="shutdown"
            ))  # fmt: skip
        super()._follow(outcome)


@pytest.fixture(params=[f"{name}-{kind}" for name in ("stub", "llama") for kind in KINDS])
def make(request: pytest.FixtureRequest, models: Path) -> Iterator[Maker]:
    name, kind = request.param.split("-")
    maker = Maker(kind, models, name)
    yield maker
    for backend in maker.made:
        backend.close()


def goes_on(crowd: Crowd, backend: Backend, tokens: Sequence[int], rows: Sequence[Captured], count: int) -> list[int]:
    """What comes after `tokens`, of which a chain of rows holds all but the last."""
    outcomes = list[Outcome]()
    assert backend.remove(0, 0, -1)
    for row in rows:
        assert row.payload is not None
        assert backend.restore(0, row.start, row.end, row.payload)
    worker = Worker(
        backend, Cells(backend, BufferPool(1 << 20)), fixed_threads(backend), crowd.facts, SchedulerOpts(), "again",
        outcomes.extend, lambda _alone: None,
    )  # fmt: skip
    worker.do(generate(0, tokens, keep=rows[-1].end, max_new_tokens=count, sampling=ENDLESS))
    while worker.busy:
        worker.tick()
    worker.close()
    (end,) = [one for one in outcomes if isinstance(one, Finished)]
    return end.token_ids


def check_rows(crowd: Watched, backend: Backend, number: int, whole: list[int]) -> int:
    """Put back each row of a request with those before it; how many there were."""
    rows, asked = crowd.saved[number], len(crowd.asked[number])
    assert [row.start for row in rows] == [0, *(row.end for row in rows[:-1])]
    for count in range(1, len(rows) + 1):
        known = max(asked, rows[count - 1].end + 1)
        assert goes_on(crowd, backend, whole[:known], rows[:count], len(whole) - known) == whole[known:]
    return len(rows)


@pytest.mark.slow
def test_replies_and_rows_are_those_of_an_undisturbed_run(make: Maker) -> None:
    """Of all requests, whatever they were in; each row is put back, and followed by what followed undisturbed."""
    failures = rows = 0
    for seed in range(4):
        dice = random.Random(seed)
        asked = prompts(dice)
        backend = make(SEQUENCES)
        failing = Failing(backend, dice)
        crowd = Watched(backend, asked, dice)
        whole = {number: tokens + alone(make, tokens, REPLY + MORE) for number, tokens in asked.items()}
        said = {number: tokens[len(asked[number]) :][:REPLY] for number, tokens in whole.items()}
        assert crowd.serve() == said, seed
        fresh = make(1)
        fresh.load(lambda _done: True)
        rows += sum(check_rows(crowd, fresh, number, whole[number]) for number in asked)
        failures += failing.failures
    assert failures >= 20
    assert rows >= 80


# --- what is not copied out ------------------------------------------------------------------------------------------

PLAN = CapturePlan(captured_to=0, prompt_ends=(16, 32, 48, 64), interval=16, min_tokens=8)
KINDS_OF_MEMORY: list[MemoryKind] = ["full", "window", "recurrent", "hybrid"]


class Broken:
    """Three requests that have read half of their prompts together. From then on no decode of several is done, and none
    of `culprits` beyond a position that is reached alone."""

    def __init__(self, memory: MemoryKind, culprits: Sequence[int]) -> None:
        window = {"n_swa": 20} if memory == "window" else {}
        one = self.bench = bench(memory=memory, context_opts={"n_batch": 96, "n_ubatch": 16}, **window)
        one.do(*(generate(n, prompt(n, 64), seq_id=n, saves=PLAN) for n in range(3)))
        while min(len(one.of(Captured, n)) for n in range(3)) < 2:
            one.tick()
        self.before, whole = self.rows(), one.backend.decode

        def decode(slices: Sequence[Slice]) -> DecodeStatus:
            (first, *others) = slices
            if others or (first.seq_id in culprits and first.start + len(first.tokens) > 56):
                raise BackendFailure("broken")
            return whole(slices)

        one.backend.decode = decode  # type: ignore[method-assign]  # it stands before the recorder's

    def rows(self) -> dict[int, list[tuple[int, int]]]:
        return {n: [(row.start, row.end) for row in self.bench.of(Captured, n) if row.payload] for n in range(3)}

    def tick_until(self, over: Callable[[], bool]) -> None:
        """Note what is copied out before each tick."""
        while not over():
            self.before = self.rows()
            self.bench.tick()


@pytest.mark.parametrize("memory", KINDS_OF_MEMORY)
def test_nothing_is_copied_out_of_a_context_that_turns_out_to_be_broken(memory: MemoryKind) -> None:
    """Not even of requests that were decoded alone for a while before they failed as well."""
    broken = Broken(memory, culprits=(0, 1, 2))
    with pytest.raises(BackendFailure, match="broken"):
        broken.tick_until(lambda: False)
    broken.bench.worker.flush()
    assert broken.rows() == broken.before
    assert all(broken.before.values())


@pytest.mark.parametrize("memory", KINDS_OF_MEMORY)
def test_nothing_more_is_copied_out_of_a_culprit(memory: MemoryKind) -> None:
    """Whatever asks for it. The others finish, and are saved to their ends."""
    broken = Broken(memory, culprits=(1,))
    one = broken.bench
    broken.tick_until(lambda: bool(one.of(Failed)))
    assert isinstance(one.ended(1), Failed)
    assert broken.rows()[1] == broken.before[1]
    last = len(broken.before[1])
    one.do(Park(1), Cancel(1), Capture(request_id=9, seq_id=1, start=0, end=64, reason="evict"))
    one.run()
    assert len(broken.rows()[1]) == last
    assert one.of(Captured, 9)[0].payload is None
    for number in (0, 2):
        end = one.ended(number)
        assert isinstance(end, Finished)
        assert end.captured_to == end.held == broken.rows()[number][-1][1]
