"""A request, by the stage that it is in: a tagged union, each member with just what is known then. Pure.

    Waiting ─▶ Following ─▶ Looking ─▶ Restoring ─▶ Working ─▶ (over)
                  └ only if it begins with rows that another is about to save
    Working ─▶ Parking ─▶ Parked ─▶ Looking … as a waiting one, until it is over

`Waiting` and `Parked` requests are queued; the others have a sequence. A transition makes the next stage out of parts
of the one before: `core` goes through all, `begun` through all from `Working` on, `allocation` through those with a
sequence. What belongs to a stage alone is left with it. Times are in seconds of the monotonic clock.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from erllama_py.cache.messages import Hit, Located
from erllama_py.scheduler.messages import Found, Outline, Request
from erllama_py.scheduler.reuse import Start

NOTHING_LOST = 1 << 31  # a position that no request comes to


class Core(msgspec.Struct, frozen=True):
    """What a request is, at every stage."""

    request: Request
    stream: bool
    started_at: float | None = None  # when it was first given a sequence
    restored_bytes: int = 0
    logits: bytes | None = None  # at the prompt's end
    rows: tuple[Located, ...] = ()  # that its sequence began with
    whole: Request | None = None  # with what was drawn of its reply in an earlier life, as if that were its prompt
    lost_from: int = NOTHING_LOST  # what was copied out from there on was not stored


class Begun(msgspec.Struct, frozen=True):
    """What the engine has done for a request. Parking keeps it."""

    outline: Outline  # how it started the first time
    sought: Request  # what its sequence is to begin with: the prompt, or all that it had when it was last parked
    captured_to: int = 0
    row_ends: tuple[int, ...] = ()  # where rows of it end, for all that is known: what extends another place is lost
    created: int = 0  # tokens copied out to be saved
    kept: tuple[int, ...] = ()  # of these, those up to where each of the request's `keeps` ends
    prefilled: bool = False
    leaving: bool = False  # it was cancelled, and the engine will say what it had
    parked_at: float = 0.0  # when it was last
    parks: int = 0
    found: int = 0  # tokens that it began with in this engine


class Allocation(msgspec.Struct, frozen=True):
    """The sequence that a request is in."""

    seq_id: int
    limit: int  # the position up to which it has cells
    goes_on: bool = False  # an idle sequence that it continues
    sticky: bool = False  # and that was its session's


class Share(msgspec.Struct, frozen=True):
    """Cells that are still to be shared: of the request that is computing them, or of an idle sequence."""

    leader: int | None
    end: int


class Waiting(msgspec.Struct, frozen=True):
    """It has no sequence, and the engine has not begun with it."""

    core: Core
    room_by: float | None = None  # it is one too many in the queue: refused, unless it has room there by then
    begun: ClassVar[None] = None


class Parked(msgspec.Struct, frozen=True):
    """It has no sequence any more."""

    core: Core
    begun: Begun


class Following(msgspec.Struct, frozen=True):
    """It begins with rows up to `leader_end`, which another request, its leader, is about to save."""

    core: Core
    begun: Begun | None
    allocation: Allocation
    leader: int
    leader_end: int


class Looking(msgspec.Struct, frozen=True):
    """The cache was asked what it has. A share that the engine was, or will be, asked for is waited for too."""

    core: Core
    begun: Begun | None
    allocation: Allocation
    since: float  # since when it has waited for the cache and the engine alone
    share: Share | None = None
    answer: Found | None = None  # the cache's, while there is a share to wait for
    saved_by_leader: int = 0


class Restoring(msgspec.Struct, frozen=True):
    """Rows are being read, and put into its cells."""

    core: Core
    begun: Begun | None
    allocation: Allocation
    since: float
    saved_by_leader: int
    found_at: float
    hit: Hit | None
    start: Start
    sent: int = 0  # rows handed to the engine
    restored: int = 0  # rows in the cells
    reading: bool = True  # more rows are to come
    refused: int | None = None  # the row that the engine could not take, by its place in `start.rows`
    bad: bool = False  # whether that row is to blame
    stopped: bool = False  # no more rows are read: computing the rest takes less time


class Working(msgspec.Struct, frozen=True):
    """The engine is at work on it."""

    core: Core
    begun: Begun
    allocation: Allocation
    since: float
    starving: bool = False  # it has asked for more cells
    back_at: float | None = None  # since when it has advanced, see `preempt`
    came_in: float = 0.0  # seconds until then: look-up, restoring, and computing again what could not be


class Parking(msgspec.Struct, frozen=True):
    """The engine is copying its cells out, and will empty its sequence."""

    core: Core
    begun: Begun
    allocation: Allocation


Queued = Waiting | Parked
Starting = Following | Looking | Restoring
Placed = Starting | Working | Parking
Open = Queued | Placed


def sought(one: Open) -> Request:
    """What its sequence is to begin with: the prompt, or all that it had when it was parked, or in an earlier life."""
    return one.begun.sought if one.begun is not None else one.core.whole or one.core.request


def comes_back(one: Working) -> bool:
    """Whether it has to come to where it was, when it was parked or in an earlier life: then it is back."""
    return one.begun.parks > 0 or one.core.request.drawn is not None


def is_leaving(one: Open) -> bool:
    """Whether it was cancelled, and the engine is to say what it had."""
    return one.begun is not None and one.begun.leaving


def is_prefilled(one: Open) -> bool:
    """Whether its prompt was computed; after parking maybe not again yet."""
    return one.begun is not None and one.begun.prefilled


def most_kept(one: Open) -> int | None:
    """How many tokens it may begin with: it has to compute the rest itself, where the logits of all of that are wanted.

    None for as many as there are; 0 where all of the prompt is scored.
    """
    request = one.core.request
    report, first = request.report, max(1, request.report.scored_from)
    scored = report.prompt_logprobs is not None and (first < request.n_tokens or not report.scored_from)
    return first - 1 if scored and not is_prefilled(one) else None


def leader_of(one: Open) -> int | None:
    """The request that computes what this one waits for."""
    match one:
        case Following(leader=leader) | Looking(share=Share(leader=leader)):
            return leader
    return None


def rank(one: Open) -> tuple[int, int]:
    """The lowest rank goes first: higher priority, then earlier arrival."""
    return -one.core.request.priority, one.core.request.id


def queue_rank(one: Queued) -> tuple[int, bool, float, int]:
    """The lowest is next in the queue: higher priority, then the one that was parked first, then earlier arrival."""
    priority, request_id = rank(one)
    return priority, isinstance(one, Waiting), 0.0 if isinstance(one, Waiting) else one.begun.parked_at, request_id


def unplaced(one: Starting) -> Queued:
    """The request back in the queue: what it has found and what it was given is dropped."""
    return Waiting(one.core) if one.begun is None else Parked(one.core, one.begun)
