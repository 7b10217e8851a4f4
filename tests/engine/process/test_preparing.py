"""A request waits for what is made for it, with the jobs that depend on it; all others go on."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest
from helpers.engine import Driver, ends, engine, generate, stub
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.drawn import Drawn
from erllama_py.engine.jobs import (
    Cancel,
    Capture,
    Drop,
    EndThinking,
    Fault,
    Finished,
    Fork,
    Generate,
    Grant,
    Job,
    Park,
    Restore,
    Resume,
    Text,
)
from erllama_py.engine.process.inside import preparing
from erllama_py.engine.process.inside.passing import TAKES_CELLS, Held, touched
from erllama_py.engine.process.inside.preparing import MOST_THREADS, Preparing
from erllama_py.engine.structure import Matcher, Tokenizer, compile
from erllama_py.errors import InvalidGrammar
from erllama_py.options.sampling import Sampling

GRAMMARS = ['start: "yes" | "no"', 'start: "up" | "down"', 'start: "a"', 'start: "b"']


def shaped(request_id: int, grammar: int = 0, **fields: Any) -> Generate:
    """A request whose structure is to be compiled, in a sequence of its own."""
    sampling = Sampling(grammar=GRAMMARS[grammar], temperature=0.0)
    return generate(request_id, [1], **{"seq_id": request_id, "sampling": sampling} | fields)


class Slow:
    """Jobs that were submitted, and a compiler that waits to be let go, for each grammar."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, submit: Any = None) -> None:
        self.jobs: list[Job] = []
        self.begun: list[str] = []
        self.gates = {grammar: threading.Event() for grammar in GRAMMARS}
        self._changed = threading.Condition()
        self.preparing = Preparing(stub().vocabulary, self._submit if submit is None else submit, "test")
        monkeypatch.setattr(preparing, "compile", self._compile)

    def put(self, *jobs: Job) -> None:
        for job in jobs:
            self.preparing.put(job)

    def wait(self, *, begun: int = 0, jobs: int = 0) -> None:
        """Until so many were begun, and so many jobs have gone."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.begun) >= begun and len(self.jobs) >= jobs, 60)

    def let_go(self, *grammars: int) -> None:
        for number in grammars or range(len(GRAMMARS)):
            self.gates[GRAMMARS[number]].set()

    def end(self) -> None:
        self.let_go()
        self.preparing.end()

    def _submit(self, job: Job) -> None:
        with self._changed:
            self.jobs.append(job)
            self._changed.notify_all()

    def _compile(self, grammar: str, tokenizer: Tokenizer) -> Matcher:
        with self._changed:
            self.begun.append(grammar)
            self._changed.notify_all()
        assert self.gates[grammar].wait(60)
        return compile(grammar, tokenizer)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    return Slow(monkeypatch)


# --- which wait -------------------------------------------------------------------------------------------------------


def test_a_job_that_needs_nothing_goes_at_once(slow: Slow) -> None:
    """On the thread that brings it."""
    jobs: list[Job] = [generate(1, [1]), Drop(0), Cancel(1)]
    slow.put(*jobs)
    assert slow.jobs == jobs
    slow.end()


def test_what_does_not_depend_on_a_request_that_waits_goes_at_once(slow: Slow) -> None:
    """Other requests, their limits, ends and saves; what is about its request or its sequence keeps its order."""
    first = shaped(1)
    slow.put(first)
    slow.wait(begun=1)
    others: list[Job] = [
        generate(2, [1], seq_id=2), Grant(7, 10), Cancel(8), EndThinking(9), Drop(3), Park(7),
        Capture(request_id=0, seq_id=4, start=0, end=1, reason="evict"), Fault("decode"),
    ]  # fmt: skip
    own: list[Job] = [EndThinking(1), Fork(request_id=5, source=1, seq_id=5, length=1), Park(1), Cancel(5)]
    slow.put(*others[:4], *own, *others[4:])
    assert slow.jobs == others
    slow.let_go()
    slow.wait(jobs=len(others) + 1 + len(own))
    assert slow.jobs == [*others, first, *own]
    slow.end()


def test_several_are_made_at_the_same_time_and_each_goes_when_it_is_ready(slow: Slow) -> None:
    """One that takes long holds up no other; the third waits for a thread."""
    one, two, three = (shaped(number + 1, number) for number in range(3))
    slow.put(one, two, three)
    slow.wait(begun=MOST_THREADS)
    assert sorted(slow.begun) == sorted(GRAMMARS[:MOST_THREADS])
    slow.let_go(1)
    slow.wait(begun=3, jobs=1)
    slow.let_go(2)
    slow.wait(jobs=2)
    assert slow.jobs == [two, three]
    slow.end()
    assert slow.jobs == [two, three, one]


def test_one_structure_is_made_once_for_all_that_wait_for_it(slow: Slow) -> None:
    """They go together, in their order; and those after them at once."""
    requests = [shaped(number) for number in range(1, 9)]
    slow.put(*requests)
    slow.let_go()
    slow.wait(jobs=8)
    slow.put(shaped(9))
    assert slow.jobs == [*requests, shaped(9)]
    assert slow.begun == GRAMMARS[:1]
    slow.end()


def test_what_cannot_be_made_is_for_the_engine_to_say(monkeypatch: pytest.MonkeyPatch, slow: Slow) -> None:
    """The job goes on to it."""

    def fails(grammar: str, tokenizer: Tokenizer) -> Matcher:
        raise InvalidGrammar("it is not valid")

    monkeypatch.setattr(preparing, "compile", fails)
    jobs = [shaped(1), generate(2, [1], seq_id=1, sampling=Sampling(ignore_eos=True)), generate(3, [1], seq_id=1)]
    slow.put(*jobs)
    slow.end()
    assert slow.jobs == jobs


# --- one that is cancelled --------------------------------------------------------------------------------------------


def test_one_that_is_cancelled_goes_at_once(slow: Slow) -> None:
    """Marked, and without what would have been made for it; what depended on it goes with it, in order."""
    slow.put(shaped(1), Grant(1, 10), Cancel(1), Grant(1, 20))
    cancelled = shaped(1, sampling=Sampling(temperature=0.0), cancelled=True)
    assert slow.jobs == [cancelled, Grant(1, 10), Cancel(1), Grant(1, 20)]
    slow.end()
    assert slow.jobs == [cancelled, Grant(1, 10), Cancel(1), Grant(1, 20)]


def test_one_that_waits_for_another_is_cancelled_in_its_order(slow: Slow) -> None:
    """It begins in a sequence that the other one shares with it: it ends with that."""
    fork = Fork(request_id=2, source=1, seq_id=2, length=1)
    slow.put(shaped(1), fork, shaped(2, 1), Cancel(2))
    assert slow.jobs == []
    slow.let_go(0)
    slow.wait(jobs=4)
    assert slow.jobs == [shaped(1), fork, shaped(2, sampling=Sampling(temperature=0.0), cancelled=True), Cancel(2)]
    slow.end()


@pytest.mark.anyio
async def test_an_engine_goes_on_while_a_structure_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other requests end; one that is cancelled meanwhile ends with what it has: nothing, or its earlier reply."""
    async with engine(stub(context_opts={"n_seq_max": 8})) as driver:
        slow = Slow(monkeypatch, driver.thread.submit)
        earlier = await drawn(driver)
        slow.put(shaped(1, stream=True), shaped(2, 1, stream=True, drawn=earlier), generate(3, [1, 2], seq_id=3))
        await driver.until(ends(3))
        slow.put(Cancel(1), Cancel(2))
        for request_id, tokens in ((1, []), (2, earlier.token_ids)):
            finished = await driver.until(ends(request_id))
            assert isinstance(finished, Finished)
            assert (finished.reason, finished.token_ids) == ("cancelled", tokens)
        assert not [one for one in driver.outcomes if isinstance(one, Text) and one.request_id in (1, 2)]
        slow.put(shaped(4, stream=True, max_new_tokens=2))
        slow.let_go()
        finished = await driver.until(ends(4))
        assert isinstance(finished, Finished)
        assert finished.text in ("ye", "no")
        slow.end()


async def drawn(driver: Driver) -> Drawn:
    """A reply of one token, as it goes on in another life."""
    driver.thread.submit(generate(9, [1], stream=True, max_new_tokens=1))
    text = await driver.until(lambda one: isinstance(one, Text) and one.draws is not None)
    await driver.until(ends(9))
    assert isinstance(text, Text)
    assert text.draws is not None
    return Drawn(token_ids=text.token_ids, draws=text.draws)


# --- whatever comes ---------------------------------------------------------------------------------------------------

REQUESTS, SEQUENCES = st.integers(1, 4), st.integers(0, 3)
JOBS = st.one_of(
    st.builds(lambda one, seq, grammar: shaped(one, grammar, seq_id=seq), REQUESTS, SEQUENCES, st.integers(0, 3)),
    st.builds(lambda one, seq: generate(one, [1], seq_id=seq), REQUESTS, SEQUENCES),
    st.builds(Grant, REQUESTS, st.just(0)),
    st.builds(Park, REQUESTS),
    st.builds(EndThinking, REQUESTS),
    st.builds(Cancel, REQUESTS),
    st.builds(Drop, SEQUENCES),
    st.builds(Fork, request_id=REQUESTS, source=SEQUENCES, seq_id=SEQUENCES, length=st.just(0)),
    st.builds(Restore, request_id=REQUESTS, seq_id=SEQUENCES, start=st.just(0), end=st.just(0), payload=st.just(None)),
    st.builds(Resume, request_id=REQUESTS, seq_id=SEQUENCES, keep=st.just(0), limit=st.just(0)),
)
NUMBERED = {Generate: "limit", Grant: "limit", Resume: "limit", Fork: "length", Restore: "end", Drop: "start"}


@given(jobs=st.lists(JOBS, max_size=20), order=st.permutations(range(4)), after=st.integers(0, 20))
def test_nothing_is_lost_and_what_depends_on_another_keeps_its_order(
    jobs: list[Job], order: list[int], after: int
) -> None:
    """Whatever comes, and whichever structure is ready first."""
    jobs = [
        msgspec.structs.replace(job, **{NUMBERED[type(job)]: number}) if type(job) in NUMBERED else job
        for number, job in enumerate(jobs)
    ]
    with pytest.MonkeyPatch.context() as monkeypatch:
        slow = Slow(monkeypatch)
        for number, job in enumerate(jobs):
            if number == after:
                slow.let_go(*order[:2])
            slow.put(job)
        slow.let_go(*order)
        slow.end()
    went = places(slow.jobs, jobs)
    for number, job in enumerate(jobs):
        for later in range(number + 1, len(jobs)):
            frees = isinstance(job, Drop) and isinstance(jobs[later], TAKES_CELLS)
            if frees or set(touched(job)) & set(touched(jobs[later])):
                assert went[number] < went[later]


def places(went: list[Job], jobs: list[Job]) -> list[int]:
    """When each of the jobs went; of equal ones the first is the first."""
    left = list(enumerate(map(plain, went)))
    found = []
    for job in map(plain, jobs):
        place = next(one for one in left if one[1] == job)
        left.remove(place)
        found.append(place[0])
    assert not left
    return found


def plain(job: Job) -> Job:
    """Without what a cancel takes away from it."""
    return msgspec.structs.replace(job, sampling=Sampling(), cancelled=False) if isinstance(job, Generate) else job


def test_a_decision_is_about_what_two_jobs_touch() -> None:
    """And of cells that one frees and the other takes."""
    held = Held()
    held.add(shaped(1))
    assert not held.lets_pass(Grant(1, 5))
    assert not held.lets_pass(Drop(1))
    assert held.lets_pass(Drop(2))
    assert held.lets_pass(generate(2, [1], seq_id=2))
    held.add(Drop(1))
    assert not held.lets_pass(generate(2, [1], seq_id=2))
    assert held.lets_pass(Cancel(2))
