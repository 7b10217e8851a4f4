"""One model that is served, and all that changes of it. The keeper alone changes it; nothing here acts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import msgspec

import erllama_py as erllama
from erllama_py.serve.config import ServedModel
from erllama_py.serve.core.served import Lease, ModelState, Standing, with_crashes
from erllama_py.serve.demand.facts import info_of
from erllama_py.serve.demand.fitting import needed_bytes
from erllama_py.serve.demand.plan import Place, Where, Why

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
        self.waiters: dict[asyncio.Future[Lease], None] = {}
        """Requests that wait for it, the oldest first."""
        self.asked_since: float | None = None
        """Since when there have been such requests, though those that came first may have left."""
        self.wanted_since: float | None = None
        """Whether it is loaded although no request waits for it, and since when."""
        self.leaves = False
        """Whether an operator wants it to go."""
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
    def ending(self) -> Why | None:
        """Why it takes no request any more and goes as soon as nobody has it, if so."""
        if self.removed or self.next is not None:
            return "changed"
        return "failed" if self.given_up else "asked" if self.leaves else None

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

    def find(self, model: ServedModel) -> None:
        """Its file is another one than when it was looked at: this is what it is. It is not loaded."""
        self.model, self.failure, self.info = model, None, info_of(model)

    def wait(self, waiter: asyncio.Future[Lease], now: float) -> None:
        """A request waits for it."""
        self.asked_since = now if self.asked_since is None else self.asked_since
        self.waiters[waiter] = None

    def leave(self, waiter: asyncio.Future[Lease]) -> bool:
        """It waits no more; whether it did, and was the last one."""
        if waiter not in self.waiters:
            return False
        del self.waiters[waiter]
        self.asked_since = self.asked_since if self.waiters else None
        return not self.waiters

    def answered(self) -> Iterator[asyncio.Future[Lease]]:
        """All that wait and have not left: they wait no more."""
        waiters, self.waiters, self.asked_since = self.waiters, {}, None
        return (waiter for waiter in waiters if not waiter.done())

    def place(self) -> Place:
        """It, as the plan sees it."""
        since = (one for one in (self.asked_since, self.wanted_since) if one is not None)
        pinned = self.model.pinned and self.ending is None and not self.asked.asked
        return Place(
            name=self.name, nbytes=self.taken, where=self.where, pinned=pinned, open=self.open,
            waits_since=min(since, default=None), last_used=self.last_used, loaded_at=self.loaded_at,
            idle_since=self.idle_since, keep_alive=self.stay.seconds, asked=self.stay.asked, ending=self.ending,
        )  # fmt: skip

    def state(self, info: erllama.ModelInfo, now: float, unix: float) -> ModelState:
        """It, for those who ask; `unix` is what is added to a time of the keeper's clock."""
        standing = _STANDING[self.where]
        if self.where == "in" and self.ending is not None:
            standing = "unloading"
        elif self.where == "out" and self.failure is not None and not self.waiters:
            standing = "failed"
        elif self.where == "out" and (self.waiters or self.wanted_since is not None):
            standing = "waiting"
        seconds = None if self.model.pinned and not self.stay.asked else self.stay.seconds
        since = now if self.open else self.idle_since
        used = now if self.open else self.idle_since if self.was_used else None
        state = ModelState(
            name=self.name, state=standing, phase=info.phase if self.where == "in" else None, memory_bytes=self.taken,
            load=self.model.load, pinned=self.model.pinned, keep_alive=seconds, open=self.open,
            waiting=len(self.waiters), last_used=None if used is None else used + unix,
            expires_at=since + seconds + unix if self.where == "in" and seconds is not None else None,
            problem=str(self.failure.error) if self.failure is not None else None, loads=self.loads,
            failed_loads=self.failed_loads, unloads=dict(self.unloads),
        )  # fmt: skip
        return with_crashes(state, info) if self.where == "in" else state
