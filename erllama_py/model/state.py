"""The state of one model's machine: frozen structs, everything that the next decision depends on."""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

from erllama_py.cache.messages import Hit
from erllama_py.engine.backend import MemoryKind
from erllama_py.model.messages import Request, SaveAll, Submit
from erllama_py.model.reuse import Start
from erllama_py.model.slots import Slot
from erllama_py.results import CacheHit, Phase

S = TypeVar("S", bound=msgspec.Struct)

Stage = Literal["looking", "restoring", "working"]


class Running(msgspec.Struct, frozen=True):
    """The request that is worked on, and how it started. Times are in seconds of the monotonic clock."""

    request: Request
    stream: bool
    started_at: float
    stage: Stage = "looking"
    found_at: float | None = None
    working_at: float | None = None
    hit: Hit | None = None
    start: Start | None = None
    sent: int = 0  # rows on their way into the cells
    restored: int = 0  # rows in them
    reading: bool = False  # more rows are to come
    refused: int | None = None  # the row that the engine could not take, by its place in `start.rows`
    restored_bytes: int = 0
    logits: bytes | None = None  # at the prompt's end
    prefilled: bool = False
    last: CacheHit | None = None  # what the request started from
    created: int = 0  # tokens copied out to be saved


class State(msgspec.Struct, frozen=True, kw_only=True):
    """See the module."""

    memory: MemoryKind
    n_swa: int
    min_tokens: int | None = None  # the gate for what is saved at rest; None saves nothing
    slot: Slot = Slot(0)
    running: Running | None = None
    waiting: tuple[Submit, ...] = ()
    save_alls: tuple[SaveAll, ...] = ()
    saving: SaveAll | None = None
    stopping: bool = False
    last_hit: CacheHit | None = None

    @property
    def phase(self) -> Phase:
        if self.running is None:
            return "idle"
        return "generating" if self.running.prefilled else "prefilling"


def changed(struct: S, **changes: object) -> S:
    """The same struct with other values in some fields."""
    return msgspec.structs.replace(struct, **changes)
