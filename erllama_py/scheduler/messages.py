"""What a model's actor understands, and what its state machine asks it to do.

Events: from callers `Submit`, `CancelRequest`, `EndThinking`, `EndSession`, `SaveAll`, `LeaveSaveAll`, `InjectFault`;
from the clock `Look`; from look-ups `Found` and `RowRead`; of saves `BuffersBack` and `SaveLost`; from the engine
thread the outcomes of `engine.jobs`, one batch per tick. Effects are carried out by the actor, in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from erllama_py.cache.keys import Identity
from erllama_py.cache.messages import Hit, Located, RowBytes, SaveLost
from erllama_py.cache.policy import KeepFor
from erllama_py.chat.segments import Markers
from erllama_py.engine.drawn import Drawn, Draws
from erllama_py.engine.failure import Failure
from erllama_py.engine.jobs import NOTHING_MORE, Captured, CapturePlan, Finished, Job, Outcome, Report
from erllama_py.options.sampling import Sampling
from erllama_py.results import CacheHit, EngineEvent
from erllama_py.scheduler.transcript import Transcript

FaultPlace = Literal["actor", "thread", "decode", "assertion"]
Feed = Callable[[EngineEvent], Any]  # where the events of a stream go, on the loop
PREFIX = "model:"
SessionKey = tuple[Identity, str]  # the same id under another salt is another session


def actor_name(model_id: str) -> str:
    """The name under which the actor of a model is registered."""
    return f"{PREFIX}{model_id}"


def session_key(identity: Identity | None, session_id: str | None) -> SessionKey | None:
    """The key of a session; None without one."""
    return None if identity is None or session_id is None else (identity, session_id)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt, checked and tokenized, with everything that its generation needs."""

    id: int
    tokens: list[int]
    max_new_tokens: int
    sampling: Sampling
    stop_sequences: tuple[str, ...]
    report: Report = NOTHING_MORE
    markers: Markers | None = None  # what tells its thinking and calls from its text
    submitted_at: float  # seconds of the monotonic clock
    identity: Identity
    packed: bytes  # the tokens as they are hashed
    key: bytes  # of the whole prompt
    plan: CapturePlan | None = None  # what to save of it; `captured_to` is settled when it starts
    parent_key: bytes | None = None
    wait_seconds: float = 0.0  # for a save under way that `parent_key` names
    priority: int = 0
    session_id: str | None = None
    session_wait: bool = False
    queue_wait: float = 0.0  # seconds that it waits for room in the queue
    keeps: tuple[KeepFor, ...] = ()  # what of it is not evicted for a time
    lasting: int | None = None
    """How many of its tokens others may find when it is over, in cells or in rows; None: all of them."""
    again: bool = False
    """Whether it was let in before, and its engine has ended: it is not refused for want of room, nor for its session.
    """
    drawn: Drawn | None = None
    """What was drawn of its reply then: it goes on from there, and its stream is told nothing again. There is no
    `Progress` any more, since the stream has begun."""
    earlier: Earlier | None = None
    """How it began then, see `machine.earlier`: that is what its answer tells, not how it goes on."""

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def session(self) -> SessionKey | None:
        """The session that this is a turn of."""
        return session_key(self.identity, self.session_id)


class Earlier(msgspec.Struct, frozen=True):
    """How a request began in the first engine that had it, and when it was given its first sequence; up to where its
    cells were copied out, and how many tokens the last engine found of it."""

    outline: Outline
    started_at: float | None
    captured_to: int = 0
    found: int = 0


class Submit(msgspec.Struct, frozen=True):
    """Serve a request; the reply is a `Completion`. `feed` gets the events of a stream on the way; `spend` is told how
    many tokens were computed and generated, once the engine has said so, be there a caller or not. What comes goes into
    `transcript`, which has the same feed."""

    request: Request
    feed: Feed | None = None
    spend: Callable[[int], object] | None = None
    transcript: Transcript | None = None


class CancelRequest(msgspec.Struct, frozen=True):
    """Finish a request with what it has; no effect when it is over or unknown. `why` is its finish reason then, unless
    it was cancelled before."""

    request_id: int
    why: Literal["cancelled", "deadline"] = "cancelled"


class EndThinking(msgspec.Struct, frozen=True):
    """Close the block of thinking that a request is in, or that its reply will begin in; no effect where it is in none,
    over or unknown."""

    request_id: int


class SaveAll(msgspec.Struct, frozen=True):
    """Save what idle sequences hold now and is not saved yet, forget it, and answer when it is stored.

    `"shutdown"` ends the requests at work first, so that all are idle. `ticket` is drawn like a request's id.
    """

    ticket: int
    reason: Literal["evict", "shutdown"]


class LeaveSaveAll(msgspec.Struct, frozen=True):
    """The caller of a `SaveAll` does not wait any more; no effect when it is over."""

    ticket: int


class BuffersBack(msgspec.Struct, frozen=True):
    """What was pending when a copy found no buffer is stored or given up: its buffers are free."""


class EndSession(msgspec.Struct, frozen=True):
    """Hold no sequence for a session any more; no effect when there is none."""

    session: SessionKey


class Look(msgspec.Struct, frozen=True):
    """Time has passed: see which sessions have been silent for too long, and which turns are over."""


class Found(msgspec.Struct, frozen=True):
    """What the cache has for a request: None when it cannot be asked. `logits` are those of the prompt's end."""

    request_id: int
    hit: Hit | None
    logits: bytes | None


class RowRead(msgspec.Struct, frozen=True):
    """The next row of a request, read and checked; None when it, and so all after it, cannot be had."""

    request_id: int
    row: RowBytes | None


class InjectFault(msgspec.Struct, frozen=True):
    """A drill: crash the actor, its engine thread, or the thread's next decode."""

    where: FaultPlace


class EngineOutcomes(msgspec.Struct, frozen=True):
    """What one tick of the engine thread brought."""

    batch: list[Outcome]


Message = (
    Submit | CancelRequest | EndThinking | SaveAll | LeaveSaveAll | BuffersBack | SaveLost | EndSession | Look | Found
    | RowRead | InjectFault | EngineOutcomes
)  # fmt: skip


class SendJob(msgspec.Struct, frozen=True):
    """Hand a job to the engine thread."""

    job: Job


class Emit(msgspec.Struct, frozen=True):
    """Give a stream its next event. `draws` comes with the last event of those that came together, and says where the
    reply stands after it."""

    request_id: int
    event: EngineEvent
    draws: Draws | None = None


class LookUp(msgspec.Struct, frozen=True):
    """Ask the cache for a prompt; answered with `Found`.

    `after_saves`: rows of it that are being saved are waited for, since nothing of it is live.
    """

    request: Request
    after_saves: bool = False


class ReadRows(msgspec.Struct, frozen=True):
    """Read rows of the last look-up, in order; each is answered with a `RowRead`. Of the first `singly` each is in the
    cells before the next is handed over: it may show that the rest takes too long."""

    request_id: int
    rows: tuple[Located, ...]
    singly: int = 1


class RowTaken(msgspec.Struct, frozen=True):
    """A row that was read is in the cells: one more may be read ahead."""

    request_id: int


class EndLookUp(msgspec.Struct, frozen=True):
    """Nothing more is wanted of a look-up. `rows` of it were restored; `hit` is what the request started from."""

    request_id: int
    hit: CacheHit
    rows: tuple[Located, ...]
    refused: Located | None  # a row that the engine could not take
    seconds: float
    resumed: bool = False  # whether the caller named a parent
    bad: bool = False  # whether that row is to blame
    stopped: bool = False  # whether rows were left because computing them took less time


class RefuseRows(msgspec.Struct, frozen=True):
    """What was computed over these rows was no number: no look-up should find them."""

    rows: tuple[Located, ...]


class SaveRow(msgspec.Struct, frozen=True):
    """Hand a copied range to the cache. `tokens` are packed, from position 0 to at least the range's end."""

    identity: Identity
    tokens: bytes
    captured: Captured
    logits: bytes | None
    keep_seconds: float = 0.0  # for how long it is not evicted
    replaces: bool = False  # rows that were saved before, within its span


class KeepLogits(msgspec.Struct, frozen=True):
    """Remember the logits at the end of a prompt."""

    key: bytes
    logits: bytes


class AwaitBuffers(msgspec.Struct, frozen=True):
    """Wait until everything that was handed to the cache is stored or given up; answered with `BuffersBack`."""


class AnswerSaved(msgspec.Struct, frozen=True):
    """Answer a `SaveAll` once everything that was handed to the cache is stored or given up."""

    ticket: int


class Outline(msgspec.Struct, frozen=True, kw_only=True):
    """How a request went until its generation began. Times are in seconds."""

    hit: CacheHit
    miss_reason: str | None = None
    tier: str | None = None
    lookup_seconds: float = 0.0
    restore_seconds: float = 0.0
    restored_bytes: int = 0
    created: int = 0  # tokens copied out to be saved
    kept: tuple[int, ...] = ()  # of these, those up to where each of the request's `keeps` ends
    parks: int = 0


class Complete(msgspec.Struct, frozen=True):
    """Answer a request. `finished` is `None` when it was cancelled before the engine saw it.

    `saved_end` is the position that the last row of it ends at, when that is where its sequence ends.
    """

    request: Request
    outline: Outline
    finished: Finished | None
    started_at: float | None
    saved_end: int | None


class FailRequest(msgspec.Struct, frozen=True):
    """Answer a request with an error."""

    request_id: int
    failure: Failure


class Refuse(msgspec.Struct, frozen=True):
    """Answer a request with `SessionBusy`, or with `QueueFull` and how many wait."""

    request: Request
    waiting: int | None = None


class Crash(msgspec.Struct, frozen=True):
    """End the actor: its engine is gone, or a drill asks for it (None)."""

    failure: Failure | None


Effect = (
    SendJob | Emit | LookUp | ReadRows | RowTaken | EndLookUp | RefuseRows | SaveRow | KeepLogits | AwaitBuffers
    | AnswerSaved | Complete | FailRequest | Refuse | Crash
)  # fmt: skip
