"""Requests that share a backend with others, as a die decides, and what each of them says alone.

Requests arrive while others run, wait for cells, leave their sequence and come back, begin in the cells of another.
Weights, cells and attention are in 32 bits and attention takes no shortcut: rows of one decode then have next to no
influence on each other's logits, and those of the tiny models lie far enough apart that a greedy reply does not change.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

from erllama_py.buffers import BufferPool
from erllama_py.engine.backend import Backend
from erllama_py.engine.cells import Cells
from erllama_py.engine.jobs import (
    Captured,
    CapturePlan,
    Failed,
    Finished,
    Fork,
    Forked,
    Grant,
    Outcome,
    Park,
    Parked,
    Restore,
    Restored,
    Resume,
    Wants,
)
from erllama_py.engine.worker import Worker
from erllama_py.options.model import SchedulerOpts
from erllama_py.options.sampling import Sampling
from helpers.backends import make_subject
from helpers.engine import fixed_threads, generate
from helpers.structures import ENDLESS as ENDLESS_TEXT
from helpers.tiny_gguf import Kind

# Prompts are longer than a micro-batch, and longer than the window of the model that has one (64).
CONTEXT: dict[str, Any] = {
    "n_ctx": 1024, "n_batch": 64, "n_ubatch": 32, "flash_attn": False, "type_k": "f32", "type_v": "f32",
}  # fmt: skip
SEQUENCES = 4
REQUESTS, REPLY = 8, 24
COMMON = 50  # tokens that half of the prompts begin with
# Without a grammar the replies of random weights end anywhere.
ENDLESS = Sampling(temperature=0.0, grammar=ENDLESS_TEXT)
MOST_STEPS = 2000  # for a test gone wrong


def prompts(dice: random.Random) -> dict[int, list[int]]:
    """By request; those with even numbers have a common beginning."""
    common = [dice.randrange(250) for _ in range(COMMON)]
    own = {number: [dice.randrange(250) for _ in range(dice.randrange(20, 90))] for number in range(REQUESTS)}
    return {number: tokens if number % 2 else common + tokens for number, tokens in own.items()}


class Crowd:
    """A worker whose requests come and go as the die falls; it keeps the books that the model's machine would."""

    def __init__(self, backend: Backend, asked: dict[int, list[int]], dice: random.Random) -> None:
        facts = self.facts = backend.load(lambda _done: True)
        self.seen: Counter[str] = Counter()
        self._shares, self.asked, self._dice = facts.memory == "full", asked, dice
        self._replies: dict[int, list[int]] = {}
        self._coming = list(asked)
        self.at: dict[int, int] = {}  # the sequence of each request that has one
        self._running: set[int] = set()
        self._parked: dict[int, int] = {}  # how many tokens each held
        self.rows: dict[int, list[Captured]] = {number: [] for number in asked}
        scheduler = SchedulerOpts(prefill_chunk_size=dice.choice([8, 24, 64]))
        cells = Cells(backend, BufferPool(1 << 26))
        self._wants: dict[int, int] = {}  # requests that wait for cells, and their limits so far
        self._told: list[Outcome] = []
        self.worker = Worker(
            backend, cells, fixed_threads(backend), facts, scheduler, "crowd", self._told.extend, lambda _alone: None
        )

    def serve(self) -> dict[int, list[int]]:
        """All replies."""
        for _ in range(MOST_STEPS):
            if len(self._replies) == len(self.asked):
                self.worker.close()
                return self._replies
            self._throw()
            self.worker.tick()
            self._learn()
        raise AssertionError(f"not all come to an end: {self.worker}, {sorted(self._replies)} did")

    def _throw(self) -> None:
        free = sorted(set(range(SEQUENCES)) - set(self.at.values()))
        for number in [number for number in self._wants if self._dice.random() < 0.2]:
            self.worker.do(Grant(number, self._wants.pop(number) + self._dice.randrange(1, 40)))
        match self._dice.randrange(12):
            case 0 | 1 if free and self._coming:
                self._arrive(self._coming.pop(0), free[0])
            case 2 | 3 if free and self._parked:
                self._come_back(self._dice.choice(sorted(self._parked)), free[-1])
            case 4 if self._running:
                self.worker.do(Park(self._dice.choice(sorted(self._running))))

    def _arrive(self, number: int, seq_id: int) -> None:
        self.at[number] = seq_id
        sources = [other for other in sorted(self._running) if other % 2 == 0]
        if self._shares and number % 2 == 0 and sources:
            source = self.at[self._dice.choice(sources)]
            self.worker.do(Fork(request_id=number, source=source, seq_id=seq_id, length=COMMON))
        else:
            self._begin(number, 0)

    def _begin(self, number: int, keep: int) -> None:
        tokens = self.asked[number]
        ends = tuple(sorted(self._dice.sample(range(keep + 1, len(tokens)), 2)))
        plan = CapturePlan(captured_to=0, prompt_ends=ends, interval=self._dice.randrange(5, 20), min_tokens=8)
        limit = keep + self._dice.randrange(1, 200)
        self._running.add(number)
        self.worker.do(generate(
            number, tokens, seq_id=self.at[number], keep=keep, limit=limit, max_new_tokens=REPLY, sampling=ENDLESS,
            saves=plan,
        ))  # fmt: skip

    def _come_back(self, number: int, seq_id: int) -> None:
        """With all rows that there are, or with some, or with none."""
        held, rows = self._parked.pop(number), self.rows[number]
        self.at[number], keep = seq_id, 0
        for row in rows[: self._dice.choice([0, len(rows) // 2, len(rows), len(rows)])]:
            assert row.payload is not None
            keep = row.end
            self.worker.do(Restore(request_id=number, seq_id=seq_id, start=row.start, end=keep, payload=row.payload))
        self.seen["came back " + ("whole" if keep == held else "in part" if keep else "empty")] += 1
        self._running.add(number)
        self.worker.do(Resume(request_id=number, seq_id=seq_id, keep=keep, limit=keep + self._dice.randrange(1, 60)))

    def _learn(self) -> None:
        told = list(self._told)
        self._told.clear()
        for outcome in told:
            self._follow(outcome)

    def _follow(self, outcome: Outcome) -> None:
        match outcome:
            case Wants(number, limit) if number in self._running:
                self.seen["asked for cells"] += 1
                self._wants[number] = limit
            case Captured() if outcome.payload is not None:
                self.rows[outcome.request_id].append(outcome)
            case Parked():
                self._parked[outcome.request_id] = outcome.held
                self._leave(outcome.request_id)
            case Forked(number, length):
                self.seen["shared" if length else "shared nothing"] += 1
                self._begin(number, length)
            case Restored():
                assert outcome.ok
            case Finished():
                self._replies[outcome.request_id] = outcome.token_ids
                self._leave(outcome.request_id)
            case Failed():
                raise AssertionError(outcome)

    def _leave(self, number: int) -> None:
        del self.at[number]
        self._wants.pop(number, None)
        self._running.discard(number)


class Maker:
    """Backends of one kind of memory; who made some closes them. `name` is as in `make_subject`."""

    def __init__(self, kind: Kind, models: Path, name: str = "llama") -> None:
        self.kind, self._models, self._name = kind, models, name
        self.made: list[Backend] = []

    def __call__(self, n_seq_max: int) -> Backend:
        backend = make_subject(self._name, self.kind, self._models, n_seq_max=n_seq_max, **CONTEXT)
        self.made.append(backend)
        return backend


def alone(make: Maker, tokens: list[int], reply: int = REPLY) -> list[int]:
    """So many tokens of the reply of a context that serves no other request."""
    backend, outcomes = make(1), list[Outcome]()
    facts = backend.load(lambda _done: True)
    cells = Cells(backend, BufferPool(1 << 20))
    worker = Worker(
        backend, cells, fixed_threads(backend), facts, SchedulerOpts(), "alone", outcomes.extend, lambda _alone: None
    )
    worker.do(generate(0, tokens, max_new_tokens=reply, sampling=ENDLESS))
    while worker.busy:
        worker.tick()
    worker.close()
    (said,) = (outcome.token_ids for outcome in outcomes if isinstance(outcome, Finished))
    assert len(said) == reply
    return said
