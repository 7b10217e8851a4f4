"""What a model's actor understands, and what its state machine asks it to do.

Events: from callers `Submit`, `CancelRequest`, `InjectFault`; from the engine thread the outcomes of
`engine.jobs`, one batch per tick. Effects are carried out by the actor, in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from erllama_py.engine.backend import Sampling
from erllama_py.engine.jobs import Finished, Job, Outcome
from erllama_py.results import CacheHit, Event

FaultPlace = Literal["actor", "thread", "decode"]
Feed = Callable[[Event], Any]  # where the events of a stream go, on the loop


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt, checked and tokenized, with everything that its generation needs."""

    id: int
    tokens: list[int]
    max_new_tokens: int
    sampling: Sampling
    stop_sequences: tuple[str, ...]
    submitted_at: float  # seconds of the monotonic clock


class Submit(msgspec.Struct, frozen=True):
    """Serve a request; the reply is a `Completion`. `feed` gets the events of a stream on the way."""

    request: Request
    feed: Feed | None = None


class CancelRequest(msgspec.Struct, frozen=True):
    """Finish a request with what it has; no effect when it is over or unknown."""

    request_id: int


class InjectFault(msgspec.Struct, frozen=True):
    """A drill: crash the actor, its engine thread, or the thread's next decode."""

    where: FaultPlace


class EngineOutcomes(msgspec.Struct, frozen=True):
    """What one tick of the engine thread brought."""

    batch: list[Outcome]


Message = Submit | CancelRequest | InjectFault | EngineOutcomes


class SendJob(msgspec.Struct, frozen=True):
    """Hand a job to the engine thread."""

    job: Job


class Emit(msgspec.Struct, frozen=True):
    """Give a stream its next event."""

    request_id: int
    event: Event


class Complete(msgspec.Struct, frozen=True):
    """Answer a request. `finished` is `None` when it was cancelled before the engine saw it."""

    request: Request
    hit: CacheHit
    miss_reason: str | None
    finished: Finished | None
    started_at: float | None


class FailRequest(msgspec.Struct, frozen=True):
    """Answer a request with an error: the name of a class in `errors`, and the problem."""

    request_id: int
    error: str
    problem: str


class Crash(msgspec.Struct, frozen=True):
    """End the actor: its engine is gone or a drill asks for it."""

    problem: str


Effect = SendJob | Emit | Complete | FailRequest | Crash
