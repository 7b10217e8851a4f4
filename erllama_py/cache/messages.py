"""What the cache's actor understands from models and users. What tiers report is in `tiers.messages`.

A *holder* is the name of the actor that asked: what it has pinned is free again when its name is. The handle of an
application is no actor: it sends `Used` itself, whatever becomes of its look-up.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from erllama_py.cache.keys import Identity
from erllama_py.cache.policy import KeepFor
from erllama_py.cache.turns import NewTurn as NewTurn
from erllama_py.cache.turns import Turn as Turn
from erllama_py.cache.walk import Hit as Hit
from erllama_py.cache.walk import Located as Located
from erllama_py.options.model import SkipReason
from erllama_py.tiers.messages import Flush, TierReport
from erllama_py.tiers.messages import RowBytes as RowBytes
from erllama_py.tiers.messages import RowLost as RowLost
from erllama_py.tiers.messages import RowMeta as RowMeta


class Find(msgspec.Struct, frozen=True, kw_only=True):
    """Look a prompt up and pin what is found until `Used`. Answered with a `walk.Hit`.

    Waits at most `wait_seconds` while a row that `parent_key` names is being saved, or, with `after_saves`, one that
    gives more of the prompt than those that are there; or else, where not all of the prompt is found, while a tier is
    being opened. `tokens` are packed.
    """

    holder: str
    request_id: int
    identity: Identity
    tokens: bytes
    cuttable: bool
    tier: str
    parent_key: bytes | None = None
    wait_seconds: float = 0.0
    keeps: tuple[KeepFor, ...] = ()
    after_saves: bool = False


UsedKind = Literal["exact", "resume", "partial", "live", "cold", "cancelled"]


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """A cast: what came of a look-up. Its rows are free again; `rows` of them were restored.

    `"cancelled"`: the request never began, so this is neither a hit nor a miss.
    """

    holder: str
    request_id: int
    kind: UsedKind
    rows: tuple[Located, ...]
    seconds: float  # from the answer until the last row was in the cells


class Explain(msgspec.Struct, frozen=True, kw_only=True):
    """What a look-up would find; changes and pins nothing. Answered with a `walk.Hit`."""

    identity: Identity
    tokens: bytes
    cuttable: bool
    tier: str


class Save(msgspec.Struct, frozen=True, kw_only=True):
    """A cast: store a row in a tier. Where that cannot be, it is counted, and the `holder` gets a `SaveLost`."""

    row: RowBytes
    tier: str
    pack_seconds: float = 0.0  # what copying the cells out took
    holder: str = ""
    request_id: int = 0
    keep_seconds: float = 0.0  # for how long the row is kept from being evicted
    replaces: bool = False  # it takes the place of the rows within its span, once it is stored: see `replaced`


class KeepTurn(msgspec.Struct, frozen=True):
    """A cast: store a turn in a tier. Look-ups find it from now on; where it cannot be stored, that is counted."""

    turn: NewTurn
    tier: str


class FindTurn(msgspec.Struct, frozen=True):
    """Look for the turns of these keys, the best first. Answered with a `turns.Turn`, or None.

    Waits at most `wait_seconds`, where the first of them is not found, while a tier is being opened. With `peek` it is
    not counted.
    """

    found_by: tuple[bytes, ...]
    wait_seconds: float = 0.0
    peek: bool = False


class HasLostTurn(msgspec.Struct, frozen=True):
    """Was there a turn that one of these found? Answered with a bool."""

    found_by: tuple[bytes, ...]


class SaveLost(msgspec.Struct, frozen=True):
    """A cast to the holder of a save: the row with this key, of positions `[start, end)`, will not be stored."""

    request_id: int
    key: bytes
    start: int
    end: int


class Skipped(msgspec.Struct, frozen=True):
    """A cast: a row that was due could not be copied out of the cells."""

    reason: SkipReason


class EvictBytes(msgspec.Struct, frozen=True):
    """Remove rows of at least `nbytes` bytes from tiers, given by kind or by name. Answered with the bytes freed."""

    nbytes: int
    tiers: tuple[str, ...]


class Remove(msgspec.Struct, frozen=True):
    """Remove the rows of a tier that have these keys, and those that extend them. Answered with `RowsRemoved`."""

    tier: str
    keys: tuple[bytes, ...]


class Gc(msgspec.Struct, frozen=True):
    """Remove rows that nothing can reach, and what tiers have set aside. Answered with the bytes freed."""


class ListRows(msgspec.Struct, frozen=True):
    """Answered with a list of `RowInfo`."""


class ReadCounters(msgspec.Struct, frozen=True):
    """Answered with a dict of all counters."""


class ListTiers(msgspec.Struct, frozen=True):
    """Answered with a list of `TierInfo`."""


class HolderGone(msgspec.Struct, frozen=True):
    """A name was given up."""

    name: str


class WaitOver(msgspec.Struct, frozen=True):
    """The time is up for look-ups that wait for a save."""

    ticket: int


CacheMessage = (
    Find | Used | Explain | Save | KeepTurn | FindTurn | HasLostTurn | Skipped | EvictBytes | Remove | Gc | ListRows
    | ReadCounters | ListTiers | HolderGone | WaitOver | Flush | TierReport
)  # fmt: skip
