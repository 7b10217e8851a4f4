"""The state of one model's machine: frozen structs, everything that the next decision depends on.

A request goes through stages:

    waiting ─▶ following ─▶ looking ─▶ restoring ─▶ working ─▶ (over)
                  └ only if it begins as another that is still being computed
    working ─▶ parking ─▶ parked ─▶ looking … as a waiting one, until it is over
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

import msgspec

from erllama_py.cache.keys import TOKEN_BYTES, Identity
from erllama_py.cache.messages import Hit
from erllama_py.engine.backend import MemoryKind
from erllama_py.results import CacheHit, Phase
from erllama_py.scheduler.books import cut
from erllama_py.scheduler.messages import Found, Outline, Request, SaveAll, SessionKey, session_key
from erllama_py.scheduler.reuse import Start
from erllama_py.scheduler.slots import Slot

S = TypeVar("S", bound=msgspec.Struct)

Stage = Literal["waiting", "following", "looking", "restoring", "working", "parking", "parked"]
QUEUED: tuple[Stage, ...] = ("waiting", "parked")
NOTHING_LOST = 1 << 31  # a position that no request comes to


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to share, and the rules for it. Lengths are in tokens, which are cells."""

    memory: MemoryKind
    n_swa: int = 0
    n_cells: int = 1 << 31
    n_seq_max: int = 1
    quantum: int = 64
    """So many cells more than a request has are given to it at once."""
    min_tokens: int | None = None
    """The gate for what is saved at rest; None saves nothing."""
    max_pending: int = 256
    kept_cells: int = 1 << 31
    """Most cells that sequences at rest keep while requests are at work."""
    idle_seconds: float = 300.0
    """How long a session's sequence is held for it."""
    turn_seconds: float = 2.0
    """How long a request is at work, at least, before it is parked for an equal that waits; see `turns`."""


class Running(msgspec.Struct, frozen=True):
    """A request that is not over, and how it started. Times are in seconds of the monotonic clock."""

    request: Request
    stream: bool
    stage: Stage = "waiting"
    seq_id: int | None = None
    started_at: float | None = None
    goes_on: bool = False  # in a sequence that was at rest
    sticky: bool = False  # and that is its session's
    leaving: bool = False  # it was cancelled, and the engine will say what it had
    # what it waits for
    lead: int | None = None  # the request whose cells, or rows, it is to begin with
    lead_end: int = 0  # up to where
    forking: bool = False
    saved_by_lead: int = 0
    answer: Found | None = None  # the cache's, while the cells to share are still computed
    # how it starts
    coming_since: float | None = None  # since when it waits for nobody but the cache and the engine
    found_at: float | None = None
    hit: Hit | None = None
    start: Start | None = None
    sent: int = 0  # rows on their way into the cells
    restored: int = 0  # rows in them
    reading: bool = False  # more rows are to come
    refused: int | None = None  # the row that the engine could not take, by its place in `start.rows`
    restored_bytes: int = 0
    logits: bytes | None = None  # at the prompt's end
    # how it goes on
    begun: Outline | None = None  # how it started the first time
    last: CacheHit | None = None  # what the last look-up gave
    limit: int = 0  # the position up to which it has cells
    starving: bool = False  # it has asked for more of them
    prefilled: bool = False
    captured_to: int = 0
    lost_from: int = NOTHING_LOST  # what was copied out from there on was not stored
    created: int = 0  # tokens copied out to be saved
    parked: Request | None = None  # the same, with what was sampled behind the prompt
    parked_at: float | None = None  # when it was last
    parks: int = 0
    back_at: float | None = None  # since when it gets on, in the sequence that it is in
    came_in: float = 0.0  # seconds until then: look-up, restoring, and computing again what could not be

    @property
    def sought(self) -> Request:
        """What its sequence is to begin with: the prompt, or all that it had when it was parked."""
        return self.parked or self.request

    @property
    def rank(self) -> tuple[int, int]:
        """Who has the lowest goes first: higher priority, then earlier arrival."""
        return -self.request.priority, self.request.id

    @property
    def queue_rank(self) -> tuple[int, bool, float, int]:
        """Who has the lowest is next: higher priority, then who was parked first, then earlier arrival."""
        parked_at = self.parked_at
        return -self.request.priority, parked_at is None, parked_at or 0.0, self.request.id


class Copy(msgspec.Struct, frozen=True):
    """A sequence at rest that is copied out before it is forgotten: whose it was, and its tokens."""

    identity: Identity
    tokens: bytes
    session_id: str | None = None

    @property
    def session(self) -> SessionKey | None:
        """The session that it was held for."""
        return session_key(self.identity, self.session_id)


class Saving(msgspec.Struct, frozen=True):
    """What a `SaveAll` is at: the ticket of the range that is copied, None while buffers are waited for."""

    seq_id: int
    ticket: int | None
    tries: int = 0  # that found no buffer, since there was one


class State(msgspec.Struct, frozen=True, kw_only=True):
    """See the module. Sequences are `slots`, by their ids; `copies` are under way, by their tickets."""

    limits: Limits
    slots: tuple[Slot, ...]
    requests: Mapping[int, Running] = {}
    copies: Mapping[int, Copy] = {}
    left: Mapping[SessionKey, bytes] = {}
    """Of sessions that have lost their sequence: the key of the last row of it."""
    save_alls: tuple[SaveAll, ...] = ()
    save_until: float = 0.0
    """They ask for what has been at rest since then, on the monotonic clock."""
    saving: Saving | None = None
    stopping: bool = False
    last_hit: CacheHit | None = None
    next_block: int = 1
    next_ticket: int = -1  # of copies; requests have ids above 0

    @property
    def phase(self) -> Phase:
        active = self.active
        if not active:
            return "idle"
        return "generating" if any(running.prefilled for running in active) else "prefilling"

    @property
    def active(self) -> list[Running]:
        """Requests with a sequence."""
        return [running for running in self.requests.values() if running.seq_id is not None]

    @property
    def queue(self) -> list[Running]:
        """Requests without one, as they came; see `Running.queue_rank` for who is next."""
        return [running for running in self.requests.values() if running.stage in QUEUED]

    @property
    def kept(self) -> list[Slot]:
        """Sequences at rest, in the order in which they go when room is needed.

        Those of sessions last; before them those whose end is not saved, which are dearer to rebuild; then the
        longest unused first.
        """
        at_rest = [slot for slot in self.slots if slot.is_kept]
        return sorted(
            at_rest, key=lambda slot: (slot.session_id is not None, slot.captured_to < slot.length, slot.used_at)
        )


def new_state(limits: Limits) -> State:
    """A model at rest."""
    return State(limits=limits, slots=tuple(Slot(seq_id) for seq_id in range(limits.n_seq_max)))


def changed(struct: S, **changes: object) -> S:
    """The same struct with other values in some fields."""
    return msgspec.structs.replace(struct, **changes)


def unstarted(running: Running) -> Running:
    """The request without a sequence, as it waits for one: anew, or to go on where it was parked."""
    return changed(
        running, stage="parked" if running.parked is not None else "waiting", seq_id=None, goes_on=False,
        sticky=False, lead=None, lead_end=0, forking=False, saved_by_lead=0, answer=None, coming_since=None,
        found_at=None, hit=None, start=None, sent=0, restored=0, reading=False, refused=None, limit=0, starving=False,
        back_at=None,
    )  # fmt: skip


def slot_of(state: State, running: Running) -> Slot:
    """The sequence that a request is in."""
    assert running.seq_id is not None
    return state.slots[running.seq_id]


def with_request(state: State, running: Running) -> State:
    """The state in which a request is as given."""
    return changed(state, requests={**state.requests, running.request.id: running})


def without_request(state: State, request_id: int) -> State:
    """The state in which a request is over."""
    return changed(state, requests={key: value for key, value in state.requests.items() if key != request_id})


def at_rest(state: State, slot: Slot, held: bytes, *, first_held: int, captured_to: int, now: float) -> State:
    """The state in which a request has left its sequence, and what that holds is kept."""
    pieces = cut(slot.pieces, len(held) // TOKEN_BYTES)
    kept = Slot(slot.seq_id, held, max(first_held, 0), slot.identity, captured_to, pieces, None, slot.session_id, now)
    return with_slot(state, kept if held else Slot(slot.seq_id))


def with_slot(state: State, slot: Slot) -> State:
    """The state in which a sequence is as given."""
    return changed(state, slots=(*state.slots[: slot.seq_id], slot, *state.slots[slot.seq_id + 1 :]))
