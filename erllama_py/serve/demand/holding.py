"""One model that is served, and all that changes of it. The keeper alone changes it; nothing here acts."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec

import erllama_py as erllama
from erllama_py.serve.config import ServedModel
from erllama_py.serve.core.served import Lease, ModelState, Standing
from erllama_py.serve.demand.facts import info_of
from erllama_py.serve.demand.fitting import needed_bytes
from erllama_py.serve.demand.plan import Place, Where

_STANDING: dict[Where, Standing] = {"out": "unloaded", "loading": "loading", "in": "loaded", "leaving": "unloading"}


class Failure(msgspec.Struct, frozen=True):
    """The last load failed."""

    error: Exception
    times: int
    """In a row."""
    until: float
    """When it is tried again, by the keeper's clock."""


class Stay(msgspec.Struct, frozen=True):
    """How long it stays without a request; `None`: without end."""

    seconds: float | None
    asked: bool = False
    """Whether a request said so, or an operator, in place of what is configured."""


class Holding:
    """See the module. Times are of the keeper's clock."""

    def __init__(self, model: ServedModel, stay: float | None) -> None:
        self.model = model
        self.next: ServedModel | None = None
        """What takes its place once nobody has it any more."""
        self.configured, self.asked = Stay(stay), Stay(None)
        self.removed = False
        self.where: Where = "out"
        self.open = 0
        self.waiters: dict[asyncio.Future[Lease], float] = {}
        """Those that wait for it, with when they came: the oldest first."""
        self.wanted_since: float | None = None
        """Whether it is loaded although no request waits for it, and since when."""
        self.last_used = self.idle_since = self.loaded_at = 0.0
        self.was_used = False
        self.failure: Failure | None = None
        self.given_up = False
        """Whether it crashed too often, so that its supervisor does not restart it."""
        self.info = info_of(model)
        self.loads = self.failed_loads = 0
        self.unloads: Counter[str] = Counter()

    @property
    def name(self) -> str:
        """Its id."""
        return self.model.name

    @property
    def closing(self) -> bool:
        """Whether it goes as soon as nobody has it."""
        return self.removed or self.next is not None

    @property
    def stay(self) -> Stay:
        """How long it stays now."""
        return self.asked if self.asked.asked else self.configured

    @property
    def taken(self) -> int:
        """Bytes that it takes while it is loaded; where nobody has looked at its file, as its last load says."""
        return needed_bytes(self.model) or self.info.memory_estimate

    def become(self, model: ServedModel) -> None:
        """Be another model of the same name; it is not loaded."""
        self.model, self.next, self.failure, self.given_up = model, None, None, False
        self.info = info_of(model)

    def place(self) -> Place:
        """It, as the plan sees it."""
        waits = [*list(self.waiters.values())[:1], *([self.wanted_since] if self.wanted_since is not None else [])]
        pinned = self.model.pinned and not self.closing and not self.asked.asked
        return Place(
            name=self.name, nbytes=self.taken, where=self.where, pinned=pinned, open=self.open,
            waits_since=min(waits, default=None), last_used=self.last_used, loaded_at=self.loaded_at,
            idle_since=self.idle_since, keep_alive=self.stay.seconds, asked=self.stay.asked, closing=self.closing,
            given_up=self.given_up,
        )  # fmt: skip

    def state(self, info: erllama.ModelInfo, now: float, unix: float) -> ModelState:
        """It, for those who ask; `unix` is what is added to a time of the keeper's clock."""
        standing = _STANDING[self.where]
        if self.where == "out" and self.failure is not None and not self.waiters:
            standing = "failed"
        elif self.where == "out" and (self.waiters or self.wanted_since is not None):
            standing = "waiting"
        seconds = None if self.model.pinned and not self.stay.asked else self.stay.seconds
        since = now if self.open else self.idle_since
        used = now if self.open else self.idle_since if self.was_used else None
        return ModelState(
            name=self.name, state=standing, phase=info.phase if self.where == "in" else None, memory_bytes=self.taken,
            load=self.model.load, pinned=self.model.pinned, keep_alive=seconds, open=self.open,
            waiting=len(self.waiters), last_used=None if used is None else used + unix,
            expires_at=since + seconds + unix if self.where == "in" and seconds is not None else None,
            problem=str(self.failure.error) if self.failure is not None else None, loads=self.loads,
            failed_loads=self.failed_loads, unloads=dict(self.unloads),
        )  # fmt: skip
