"""What a row is, what a tier's actor understands, and what it reports to the cache.

A tier stores rows and knows nothing of prompts. It is an actor named `tier:<name>` (`tier_actor_name`). What changes it
(`Put`, `Delete`, `Sweep`) waits in its queue, and is done in the order in which it came; `Flush` is answered when it is
reached there. `Get`, `Touch` and `Introduce` do not wait. It casts what happened, in that order, to the actor named
`CACHE`, asks it `MakeRoom` for a row that has none, and `Recheck` before it publishes. The cache alone decides what is
stored and what is evicted; a tier refuses what would break its quota all the same.
"""

from __future__ import annotations

import msgspec

from erllama_py.errors import TierError
from erllama_py.options.model import RowReason as RowReason
from erllama_py.options.model import SaveReason as SaveReason

CACHE = "cache"  # the name of the cache's actor
PREFIX = "tier:"


def tier_actor_name(tier: str) -> str:
    """The name under which the actor of a tier is registered."""
    return f"{PREFIX}{tier}"


def tier_of_actor(actor: str) -> str | None:
    """The tier whose actor is registered as `actor`; None for the name of something else."""
    return actor.removeprefix(PREFIX) if actor.startswith(PREFIX) else None


# Rows come by the hundred thousand, and hold nothing that could refer back to them: the garbage collector, which stops
# everything while it looks at its objects, need not look at these (`gc=False`).


class RowMeta(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Everything about a row but its bytes. Immutable once saved; hits are counted beside it.

    A row holds the KV state of positions `[start, end)`; `key` is the key at `end`, `parent` the key at `start`
    (at 0: the key over no tokens). A row that was saved for a `"turn"` holds no cells, but the tokens of a reply and of
    what precedes it; those rows extend each other, and no others. Lengths are in tokens, sizes in bytes, times in
    seconds.
    """

    key: bytes
    """32 bytes."""
    parent: bytes
    """32 bytes."""
    start: int
    end: int
    tokens: bytes
    """Of the span, u32 little-endian: 4 * (end - start) bytes."""
    fingerprint: bytes
    """32 bytes; of the model, with the salt folded in."""
    quant_bits: int
    ctx_params_hash: bytes
    """32 bytes; of a turn, what it is found by."""
    build: str
    """Of the inference library, in words."""
    payload_bytes: int
    logits_bytes: int
    """Of the logits at `end`; 0 when they are not kept."""
    reason: RowReason
    created_at: float
    """Unix time."""
    prefill_seconds: float
    """What computing these cells took, so what a hit saves."""


class StoredRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A row as it lies in a tier: `nbytes` is what it takes of the quota there, everything counted."""

    meta: RowMeta
    nbytes: int
    hits: int
    used_at: float  # unix time


class RowBytes(msgspec.Struct, frozen=True):
    """A row with its bytes; `logits` is empty where none are kept.

    KV bytes lie in one of these between the engine's buffers and the file, in both directions.
    """

    meta: RowMeta
    payload: memoryview
    logits: bytes = b""


class ReservationGone(TierError):
    """The cache does not want this row any more; nothing was published."""


# --- to a tier -------------------------------------------------------------------------------------------


class Put(msgspec.Struct, frozen=True):
    """Store a row. The cache gets `RowStored` or `PutFailed`; a call is answered with `StoredRow` after that.

    Fails with `TierFull` (no room, be it in the quota or on the device), `TierFailed` (the store cannot be written now)
    or `ReservationGone`. The row's bytes must not change until then.
    """

    reservation: int
    row: RowBytes


class Get(msgspec.Struct, frozen=True):
    """Read a row whole, checked. Answered with `RowBytes`; fails with `RowUnavailable`, `TierFailed`."""

    key: bytes


class Delete(msgspec.Struct, frozen=True):
    """Remove rows, those that extend others before them; one that is not there is no error. The cache gets `Removed`; a
    call is answered with the bytes freed. A row is only gone when its file is: else it stays, and with it the rows
    that it extends."""

    keys: tuple[bytes, ...]


class Flush(msgspec.Struct, frozen=True):
    """Answered when everything that was queued before is done and reported."""


class Touch(msgspec.Struct, frozen=True):
    """A cast: remember hits and last use (unix time) of a row, to survive a restart. Best effort."""

    key: bytes
    hits: int
    used_at: float


class Introduce(msgspec.Struct, frozen=True):
    """A cast: report this tier and all of its rows to the cache again."""


class Sweep(msgspec.Struct, frozen=True):
    """Remove what was set aside, and stray files. Answered with the bytes freed.

    Files that could not be read for a moment are looked at again then; a file that cannot be read is no stray.
    """


Change = Put | Delete | Sweep | Flush
TierMessage = Change | Get | Touch | Introduce


# --- from a tier to the cache ----------------------------------------------------------------------------


class TierUp(msgspec.Struct, frozen=True):
    """This tier runs; its rows follow."""

    tier: str
    kind: str
    quota_bytes: int


class TierRows(msgspec.Struct, frozen=True):
    """Some of the rows that the tier has found in itself: `done` of `total` are looked at."""

    tier: str
    rows: tuple[StoredRow, ...]
    done: int
    total: int


class RowStored(msgspec.Struct, frozen=True):
    """A row was published under a reservation. Reported before `Put` is answered, so no crash in between loses it."""

    tier: str
    reservation: int
    row: StoredRow


class PutFailed(msgspec.Struct, frozen=True):
    """Nothing was stored under a reservation; `problem` is the class of the error."""

    tier: str
    reservation: int
    problem: str


class Removed(msgspec.Struct, frozen=True):
    """These rows are out of the tier, their bytes free. Those that are `left` could not be removed, and are served as
    before. Not `ok`: that failed, and which of `keys` are left is unknown."""

    tier: str
    keys: tuple[bytes, ...]
    ok: bool
    left: tuple[StoredRow, ...] = ()


class RowLost(msgspec.Struct, frozen=True):
    """A row is not there any more, or is not what it was: `reason` is a `BadRow` kind, `"unreadable"` or `"gone"`."""

    tier: str
    key: bytes
    reason: str


class BadFiles(msgspec.Struct, frozen=True):
    """Files that a tier has found to be no rows and set aside, by `BadRow` kind; or left there, as `"unreadable"`."""

    tier: str
    counts: dict[str, int]


class TierHealth(msgspec.Struct, frozen=True):
    """`problem` is why the tier cannot be written now; None when it can again."""

    tier: str
    problem: str | None


class MakeRoom(msgspec.Struct, frozen=True):
    """A call: a pending row of a tier has no room. Answered with the keys of rows of `nbytes` bytes that the tier is to
    remove before it tries once more; they are out of look-ups. Empty where none may go."""

    reservation: int
    nbytes: int


class Recheck(msgspec.Struct, frozen=True):
    """A call: does this reservation still stand? Answered with a bool."""

    reservation: int


TierReport = TierUp | TierRows | RowStored | PutFailed | Removed | RowLost | BadFiles | TierHealth | Recheck | MakeRoom
