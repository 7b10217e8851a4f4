"""The state machine between a cache and an engine that answer in any order: nothing is lost, nothing is done twice."""

from __future__ import annotations

import msgspec
import pytest
from helpers.requests import IDLE, PROMPT, captured, finished, found, hit_of, row_read, submit
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.cache.messages import Located
from erllama_py.engine.backend import MemoryKind
from erllama_py.engine.jobs import Capture, Drop, Failed, Generate, Job, Outcome, Restore, Restored
from erllama_py.model.machine import transition
from erllama_py.model.messages import (
    AnswerSaved,
    CancelRequest,
    Complete,
    Effect,
    EndLookUp,
    EngineOutcomes,
    FailRequest,
    LookUp,
    Message,
    ReadRows,
    SaveAll,
    SendJob,
)


class World:
    """The cache and the engine around the machine: they answer what they are asked, and count what they see.

    All prompts begin alike, so the engine's sequence is known by its `length`.
    """

    def __init__(self, memory: MemoryKind) -> None:
        self.state = msgspec.structs.replace(IDLE, memory=memory, n_swa=16)
        self.cut_anywhere = memory in ("full", "window")
        self.length = self.submitted = self.tickets = 0
        self.answered: list[int] = []
        self.saved: list[int] = []
        self.looked_up: list[int] = []
        self.ended: list[int] = []
        self.jobs: list[Job] = []  # that the engine has not answered yet
        self.begun: Generate | None = None
        self.unread: list[Located] = []

    def tell(self, event: Message) -> None:
        self.state, effects = transition(self.state, event, 0.0)
        for effect in effects:
            self.see(effect)
        self.work()

    def see(self, effect: Effect) -> None:
        match effect:
            case SendJob(Generate() | Restore() | Capture() | Drop() as job):
                self.jobs.append(job)
            case LookUp(request):
                self.looked_up.append(request.id)
            case ReadRows(_, rows):
                self.unread = list(rows)
            case EndLookUp(request_id):
                self.ended.append(request_id)
                self.unread = []
            case Complete(request):
                self.answered.append(request.id)
            case FailRequest(request_id):
                self.answered.append(request_id)
            case AnswerSaved(ticket):
                self.saved.append(ticket)
            case _:
                pass

    def work(self) -> None:
        """What the engine does by itself, and what it may count on when it does."""
        while self.jobs and isinstance(self.jobs[0], Drop):
            self.jobs.pop(0)
            self.length = 0
        match self.jobs[:1]:
            case [Generate() as job] if job is not self.begun:
                self.begun = job
                assert job.request_id in self.ended
                assert job.keep < len(job.tokens) or job.logits is not None
                assert self.can_cut(job.keep)
                self.length = len(job.tokens)
            case [Capture(start=start, end=end)]:
                assert start < end == self.length
            case _:
                pass

    def can_cut(self, length: int) -> bool:
        return length == 0 or length == self.length or (self.cut_anywhere and length < self.length)

    def possible(self) -> list[str]:
        """What can happen now. What leads on is more likely than what goes wrong, so that all stages are reached."""
        running, job = self.state.running, self.jobs[0] if self.jobs else None
        steps = ["submit", "submit", "evict", "cancel any", "late"]
        if running is not None and running.stage == "looking":
            steps += ["found", "found", "found", "found", "cancel"]
        if self.unread:
            steps += ["row", "row", "row", "row", "no row", "cancel"]
        match job:
            case Restore():
                steps += ["restored", "restored", "restored", "refused", "gone"]
            case Generate():
                steps += ["finish", "finish", "fail", "capture", "cancel"]
            case Capture():
                steps += ["copied", "copied"]
            case _:
                pass
        return steps

    def step(self, step: str, number: int) -> None:
        running = self.state.running
        job = self.jobs[0] if self.jobs else None
        match step:
            case "submit":
                self.submitted += 1
                self.tell(submit(self.submitted, PROMPT[: 20 + number]))
            case "cancel" if running is not None:
                self.tell(CancelRequest(running.request.id))
            case "cancel any":
                self.tell(CancelRequest(number))
            case "found" if running is not None and running.stage == "looking":
                tokens = running.request.tokens
                hits = [
                    None,
                    hit_of(tokens, 10, 20),
                    hit_of(tokens, 20, len(tokens) + 1, logits=(20,), length=len(tokens)),
                ]
                hits += [hit_of(tokens, 10, len(tokens), logits=(10, len(tokens)))]
                if not self.cut_anywhere:
                    del hits[2]
                self.tell(found(running.request.id, hits[number % len(hits)], b"kept" if number % 2 else None))
            case "row" | "no row" if running is not None and self.unread:
                row = self.unread.pop(0) if step == "row" else None
                self.unread = self.unread if row else []
                self.tell(row_read(running.request.id, row))
            case "restored" | "refused" | "gone" if isinstance(job, Restore):
                ok = step == "restored" and self.can_cut(job.start)
                self.length = job.end if ok else 0 if step == "gone" else min(self.length, job.start)
                self.answer(Restored(job.request_id, job.end, ok, self.length, 0.01))
            case "capture" if isinstance(job, Generate):
                self.tell(EngineOutcomes([captured(job.request_id, 0, 10)]))
            case "finish" if isinstance(job, Generate):
                self.answer(finished(job.request_id, [5], held=self.length, captured_to=number % self.length))
            case "fail" if isinstance(job, Generate):
                self.answer(Failed(job.request_id, "SamplerFailed", "x"))
            case "evict":
                self.tickets += 1
                self.tell(SaveAll(1000 + self.tickets, "evict"))
            case "copied" if isinstance(job, Capture):
                self.answer(captured(job.request_id, job.start, job.end, reason="evict"))
            case "late":
                self.tell(EngineOutcomes([finished(10_000, [5], held=3), Failed(10_000, "SamplerFailed", "x")]))
                self.tell(found(10_000))
            case _:
                pass

    def answer(self, outcome: Outcome) -> None:
        self.jobs.pop(0)
        self.tell(EngineOutcomes([outcome]))


@pytest.mark.slow
@given(
    st.sampled_from(["full", "window", "recurrent", "hybrid"]),
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 40)), min_size=40, max_size=60),
)
def test_every_request_is_answered_exactly_once(memory: MemoryKind, steps: list[tuple[int, int]]) -> None:
    """Whatever the order of events: no answer is lost or given twice, every look-up is ended once, and the engine
    is never asked for tokens that its sequence does not hold."""
    world = World(memory)
    for choice, number in steps:
        possible = world.possible()
        world.step(possible[choice % len(possible)], number)
    while world.state.running or world.state.saving or world.jobs:
        for step in ("found", "row", "restored", "finish", "copied"):
            world.step(step, 1)
    assert sorted(world.answered) == list(range(1, world.submitted + 1))
    assert sorted(world.saved) == list(range(1001, 1001 + world.tickets))
    assert world.ended == world.looked_up
    assert len(set(world.looked_up)) == len(world.looked_up)
    assert world.state.waiting == ()
    assert world.state.save_alls == ()
