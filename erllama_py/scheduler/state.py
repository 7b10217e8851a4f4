"""The state of one model's machine: frozen structs, everything that the next decision depends on. Pure.

Requests are in three places, by what they have: `placed` have a sequence, so they are few; `parked` were taken out of
one; `queue` is of those that were never started, and may be long. See `stages`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from erllama_py.cache.keys import TOKEN_BYTES, Identity
from erllama_py.engine.backend import MemoryKind, ModelFacts
from erllama_py.engine.rates import Rates
from erllama_py.options.model import ModelConfig
from erllama_py.results import CacheHit, Phase
from erllama_py.scheduler.cells import Slot, cut
from erllama_py.scheduler.messages import SaveAll, SessionKey, session_key
from erllama_py.scheduler.queue import Queue
from erllama_py.scheduler.stages import Open, Parked, Placed, Waiting, is_prefilled

S = TypeVar("S", bound=msgspec.Struct)
K = TypeVar("K")
V = TypeVar("V")

# Cells are given to a reply in steps of this many: at 50 tokens a second, one message between loop and thread in some
# seconds, while the steps of all replies together are at most an eighth of the context.
LEAST_QUANTUM, MOST_QUANTUM = 32, 128
SHARE_OF_QUANTA = 8

# What a decode loses to idle cells, with SmolLM2 and 8,192 cells on two cores: a quarter of them costs 10 to 15 % of
# its rate with flash attention and half without, a sixteenth then 20 % (`benchmarks/concurrency_kept.py`).
SHARE_OF_KEPT, SHARE_OF_KEPT_WITHOUT_FLASH = 4, 16


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to share, and the rules for it. Lengths are in tokens, which are cells."""

    memory: MemoryKind
    n_swa: int = 0
    n_cells: int = 1 << 31
    n_seq_max: int = 1
    quantum: int = 64  # cells that a request is given at a time
    min_tokens: int | None = None  # the gate for what is saved of idle sequences; None saves nothing
    max_pending: int = 256
    kept_cells: int = 1 << 31  # most cells that idle sequences keep while requests are at work
    idle_seconds: float = 300.0  # how long a session's sequence is held for it
    turn_seconds: float = 2.0
    """How long a request is at work, at least, before it is parked for an equal that waits; see `preempt`."""
    grid: int | None = None
    """Replies are to be reproducible: prompts are computed in slices that end on multiples of it, and only what such
    slices have computed is reused, up to one of their ends. None: anything may be."""

    @property
    def window(self) -> int:
        """The width of the sliding window beside which cells are forgotten; 0 where none are."""
        return self.n_swa if self.memory == "window" else 0


def limits_of(config: ModelConfig, facts: ModelFacts, grid: int | None = None) -> Limits:
    """The limits of a loaded model."""
    scheduler, n_seq_max = config.scheduler, max(1, facts.n_seq_max)
    quantum = facts.n_ctx // (SHARE_OF_QUANTA * n_seq_max)
    quantum = min(max(quantum, LEAST_QUANTUM), MOST_QUANTUM)
    share = SHARE_OF_KEPT if facts.flash_attn else SHARE_OF_KEPT_WITHOUT_FLASH
    return Limits(
        memory=facts.memory,
        n_swa=facts.n_swa,
        # A recurrent state has one size, whatever it has seen.
        n_cells=facts.n_ctx * (n_seq_max if facts.memory == "recurrent" else 1),
        n_seq_max=n_seq_max,
        quantum=quantum if n_seq_max > 1 else facts.n_ctx,
        min_tokens=config.policy.min_tokens,
        max_pending=scheduler.max_pending,
        kept_cells=facts.n_ctx // share if scheduler.kept_tokens is None else scheduler.kept_tokens,
        idle_seconds=scheduler.session_idle_ms / 1000,
        turn_seconds=scheduler.turn_ms / 1000,
        grid=grid,
    )


class Copy(msgspec.Struct, frozen=True):
    """An idle sequence that is copied out before it is forgotten: whose it was, and its tokens."""

    identity: Identity
    packed: bytes
    session_id: str | None = None

    @property
    def session(self) -> SessionKey | None:
        """The session that it was held for."""
        return session_key(self.identity, self.session_id)


class Saving(msgspec.Struct, frozen=True):
    """What a `SaveAll` is at: the ticket of the range that is copied, None while buffers are waited for."""

    seq_id: int
    ticket: int | None
    tries: int = 0  # copies in a row that found no buffer


class State(msgspec.Struct, frozen=True, kw_only=True):
    """See the module. Sequences are `slots`, by their ids; `copies` are under way, by their tickets."""

    limits: Limits
    slots: tuple[Slot, ...]
    placed: Mapping[int, Placed] = {}  # in the order in which they were given their sequences
    parked: Mapping[int, Parked] = {}
    queue: Queue = Queue()
    copies: Mapping[int, Copy] = {}
    left: Mapping[SessionKey, bytes] = {}  # of sessions that have lost their sequence: the key of the last row of it
    save_alls: tuple[SaveAll, ...] = ()
    save_until: float = 0.0  # what is idle since then or longer is saved; monotonic clock
    saving: Saving | None = None
    stopping: bool = False
    rates: Rates = Rates()  # what its engine has measured so far
    last_hit: CacheHit | None = None
    next_block: int = 1
    next_ticket: int = -1  # of copies; requests have ids above 0

    @property
    def phase(self) -> Phase:
        if not self.placed:
            return "idle"
        return "generating" if any(is_prefilled(one) for one in self.placed.values()) else "prefilling"

    @property
    def pending(self) -> int:
        """How many requests have no sequence."""
        return len(self.queue) + len(self.parked)

    @property
    def idle(self) -> list[Slot]:
        """Idle sequences, in the order in which they go when room is needed.

        Those of sessions last; before them those whose end is not saved, which cost more to rebuild; then the
        longest unused first.
        """
        return sorted(
            (slot for slot in self.slots if slot.is_idle),
            key=lambda slot: (slot.session_id is not None, slot.captured_to < slot.length, slot.used_at),
        )

    def find(self, request_id: int) -> Open | None:
        """A request that is not over."""
        return self.placed.get(request_id) or self.parked.get(request_id) or self.queue.get(request_id)


def new_state(limits: Limits) -> State:
    """A model without any request."""
    return State(limits=limits, slots=tuple(Slot(seq_id) for seq_id in range(limits.n_seq_max)))


def changed(struct: S, **changes: object) -> S:
    """The same struct with other values in some fields."""
    return msgspec.structs.replace(struct, **changes)


def slot_of(state: State, one: Placed) -> Slot:
    """The sequence that a request is in."""
    return state.slots[one.allocation.seq_id]


def with_request(state: State, one: Open) -> State:
    """The state in which a request is at this stage."""
    request_id = one.core.request.id
    match one:
        case Waiting():
            if state.queue.get(request_id) is None:
                state = without_request(state, request_id)
            return changed(state, queue=state.queue.put(one))
        case Parked():
            state = without_request(state, request_id)
            return changed(state, parked={**state.parked, request_id: one})
        case _:
            if request_id not in state.placed:
                state = without_request(state, request_id)
            return changed(state, placed={**state.placed, request_id: one})


def without_request(state: State, request_id: int) -> State:
    """The state in which a request is over."""
    if request_id in state.placed:
        return changed(state, placed=without(state.placed, request_id))
    if request_id in state.parked:
        return changed(state, parked=without(state.parked, request_id))
    return changed(state, queue=state.queue.without(request_id))


def without(mapping: Mapping[K, V], key: K) -> dict[K, V]:
    """The same without a key."""
    return {other: value for other, value in mapping.items() if other != key}


def idle_after(state: State, slot: Slot, packed: bytes, *, first: int, captured_to: int, now: float) -> State:
    """The state in which a request has left its sequence, and what that holds is kept."""
    pieces = cut(slot.pieces, len(packed) // TOKEN_BYTES)
    kept = Slot(slot.seq_id, packed, max(first, 0), slot.identity, captured_to, pieces, None, slot.session_id, now)
    if _has_neighbour(state, slot.seq_id):
        kept = kept.beside_others(state.limits.window)
    return with_slot(state, kept if packed else Slot(slot.seq_id))


def with_neighbour(state: State, seq_id: int) -> State:
    """The state in which a request that is in this sequence may have tokens computed at any time."""
    if not (n_swa := state.limits.window):
        return state
    alone = not _has_neighbour(state, seq_id)
    slots = [slot if slot.seq_id == seq_id and alone else slot.beside_others(n_swa) for slot in state.slots]
    return changed(state, slots=tuple(slots))


def _has_neighbour(state: State, seq_id: int) -> bool:
    return any(slot.request_id is not None and slot.seq_id != seq_id for slot in state.slots)


def solid(limits: Limits, n_prompt: int, held: int, *, lasting: int | None = None, first: int = 0) -> int:
    """How much of the `held` tokens of a sequence, with a prompt of `n_prompt`, the next request may find there: what
    is `lasting`; on a `grid`, whole slices of the prompt. A recurrent state cannot go back to where that ends, nor can
    a window whose cells begin at `first`, where those before the end are gone.
    """
    end = held if lasting is None else min(held, lasting)
    if limits.grid is not None:
        end = min(end, n_prompt) // limits.grid * limits.grid
    if end == held or limits.memory == "full":
        return end
    gone = lasting is not None and first > max(0, end - limits.n_swa)
    return end if limits.memory == "window" and not gone else 0


def with_slot(state: State, slot: Slot) -> State:
    """The state in which a sequence is as given."""
    return changed(state, slots=(*state.slots[: slot.seq_id], slot, *state.slots[slot.seq_id + 1 :]))
