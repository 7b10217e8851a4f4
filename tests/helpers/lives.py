"""A reply in two lives: a worker runs it as a whole, and another one goes on after any of its texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from erllama_py.buffers import BufferPool
from erllama_py.engine.backend import Backend, ModelFacts
from erllama_py.engine.cells import Cells
from erllama_py.engine.drawn import Drawn
from erllama_py.engine.jobs import Failed, Finished, Generate, Job, Outcome, Text
from erllama_py.engine.worker import Worker
from erllama_py.options.model import SchedulerOpts
from helpers.engine import fixed_threads

MOST_TICKS = 5000  # for a test gone wrong: it shall fail rather than go on for ever


class Life:
    """A worker over a backend whose sequences are empty; `ticks` are those since it began."""

    def __init__(self, backend: Backend, facts: ModelFacts) -> None:
        self.outcomes: list[Outcome] = []
        for seq_id in range(facts.n_seq_max):
            assert backend.remove(seq_id, 0, -1)
        self.worker = Worker(
            backend, Cells(backend, BufferPool(1 << 30), facts.n_ctx), fixed_threads(backend), facts,
            SchedulerOpts(prefill_chunk_size=64), "life", self.outcomes.extend, lambda request_id: None,
        )  # fmt: skip

    def run(
        self, *jobs: Job, then: dict[int, Job] | None = None, noting: Callable[[], None] = lambda: None
    ) -> Sequence[Outcome]:
        """Do these jobs, tick until nothing is left to do, and `then` others after so many ticks, `noting` that."""
        for job in jobs:
            self.worker.do(job)
        for tick in range(MOST_TICKS):
            if not self.worker.busy:
                self.worker.flush()
                return self.outcomes
            self.worker.tick()
            if then and tick in then:
                self.worker.do(then[tick])
                noting()
        raise AssertionError("the worker does not come to rest")


def texts(outcomes: Sequence[Outcome]) -> list[Text]:
    """All of them, in order."""
    return [one for one in outcomes if isinstance(one, Text)]


def end(outcomes: Sequence[Outcome]) -> Finished:
    """How the one request ended."""
    (one,) = [one for one in outcomes if isinstance(one, Finished | Failed)]
    assert isinstance(one, Finished), one
    return one


def drawn(heard: Sequence[Text]) -> Drawn | None:
    """What a listener knows who has heard these texts; None before there was a token."""
    tokens = [token for text in heard for token in text.token_ids]
    told = [text for text in heard if text.draws is not None]
    if not told:
        return None
    logprobs = [one for text in heard for one in text.logprobs or ()]
    draws = told[-1].draws
    assert draws is not None
    return Drawn(token_ids=tokens, draws=draws, logprobs=logprobs)


def places(heard: Sequence[Text]) -> list[int]:
    """After how many of them another life can go on."""
    return [0] + [at + 1 for at, text in enumerate(heard) if text.draws is not None]


def shown(heard: Sequence[Text]) -> list[tuple[str, str, bool]]:
    """What a reader sees, however it came in pieces: the segments, and whether each is closed."""
    seen: list[tuple[str, str, bool]] = []
    for text in heard:
        if seen and seen[-1][0] == text.kind and not seen[-1][2]:
            seen[-1] = (text.kind, seen[-1][1] + text.text, text.closed)
        else:
            seen.append((text.kind, text.text, text.closed))
    return [one for one in seen if one[1] or one[2]]


def told(finished: Finished) -> dict[str, Any]:
    """All that must be as if nothing had happened, without `logprobs`: see `scores_alike`."""
    apart = {"logprobs", "prefill_tokens", "prefill_seconds", "decode_seconds", "first_held", "captured_to"}
    return {name: value for name, value in msgspec.structs.asdict(finished).items() if name not in apart}


def scores_alike(some: Finished, others: Finished, *, exact: bool = False) -> bool:
    """Whether the same tokens are told of, and the same of them: but for the last bits where what was decoded together
    at first, as a structure forced it or as it was written, was decoded one by one in another life."""
    numbers = []
    for finished in (some, others):
        told = finished.logprobs or []
        tops = [one.top_logprobs + one.top_logprobs_after for one in told]
        afters = [one.logprob_after or 0.0 for one in told]
        numbers.append([*(one.logprob for one in told), *afters, *(other.logprob for top in tops for other in top)])
    if exact:
        return some.logprobs == others.logprobs
    tokens = [[(one.token_id, one.bytes) for one in finished.logprobs or ()] for finished in (some, others)]
    return tokens[0] == tokens[1] and numbers[0] == pytest.approx(numbers[1], abs=0.01)


def goes_on(job: Generate, heard: Sequence[Text]) -> Generate:
    """The same request for its next life, as it comes out of a frame."""
    again = msgspec.structs.replace(job, drawn=drawn(heard), retrace=True)
    return msgspec.msgpack.decode(msgspec.msgpack.encode(again), type=Generate)
