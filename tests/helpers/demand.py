"""A server of a configuration, in this process, with a budget of memory that a test knows: sizes are made up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

import erllama_py as erllama
from erllama_py.serve.app import App, create_app
from erllama_py.serve.config import Config, ServedModel, check_tables
from erllama_py.serve.core.served import ModelState
from erllama_py.serve.demand import Keeper, load_model

MIB = 1 << 20
TIER, BUFFER = 64 * MIB, 16 * MIB
FILE = Path("/nonexistent/server.toml")


def stub(name: str, size: int = 60, **given: Any) -> dict[str, Any]:
    """A model that takes so many MiB, of a configuration; it is loaded on demand."""
    found = {"name": name, "backend": "stub", "load": "demand", "memory_bytes": size * MIB}
    return {**found, "context_opts": {"n_ctx": 2048, "n_seq_max": 4}, **given}


def tables(*models: dict[str, Any], room: int | None = 100, server: Any = None, **others: Any) -> dict[str, Any]:
    """A configuration whose models may take `room` MiB together."""
    bound: dict[str, Any] = {"isolation": "thread"}  # processes are not the point, and take their time
    if room is not None:
        bound["memory_budget_bytes"] = TIER + BUFFER + room * MIB
    runtime = {"ram_quota_bytes": TIER, "save_buffer_bytes": BUFFER}
    return {"models": list(models), "server": bound | (server or {}), "runtime": runtime, **others}


def config(*models: dict[str, Any], **given: Any) -> Config:
    """What they mean."""
    return check_tables(tables(*models, **given), FILE)


class Demanded(NamedTuple):
    """What a test asks."""

    client: httpx.AsyncClient
    app: App
    changed: list[Config]
    """Put a configuration in it, and it is what a reload reads."""

    def state(self, name: str) -> ModelState:
        """What a model does."""
        return next(one for one in self.app.service.states().models if one.name == name)

    async def chat(self, model: str, text: str = "hello", **given: Any) -> httpx.Response:
        """One reply."""
        ask = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 4, **given}
        return await self.client.post("/v1/chat/completions", json=ask)


class Loads:
    """What goes through it is loaded as far as a test lets it."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.errors: dict[str, Exception] = {}

    def hold(self, name: str) -> asyncio.Event:
        """Loads of this model wait for the event."""
        return self.gates.setdefault(name, asyncio.Event())

    async def __call__(self, runtime: erllama.Runtime, model: ServedModel) -> None:
        """Load it, or fail."""
        self.begun.append(model.name)
        if (gate := self.gates.get(model.name)) is not None:
            await gate.wait()
        if (error := self.errors.get(model.name)) is not None:
            raise error
        await load_model(runtime, model)


class Hands:
    """A clock that stands still until a test moves it. See `Clock` of the keeper."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._timers: list[tuple[float, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object]) -> Any:
        entry = (when, callback)
        self._timers.append(entry)
        return _Timer(lambda: self._timers.remove(entry) if entry in self._timers else None)

    def advance(self, seconds: float) -> None:
        """Move the time on, and call what is due."""
        self.now += seconds
        for entry in [one for one in self._timers if one[0] <= self.now]:
            self._timers.remove(entry)
            entry[1]()


class _Timer(NamedTuple):
    cancel: Callable[[], object]


@asynccontextmanager
async def demanded(
    first: Config,
    *,
    loads: Loads | None = None,
    clock: Hands | None = None,
    source: Callable[[], Config] | None = None,
    **given: Any,
) -> AsyncIterator[Demanded]:
    """An application of a configuration that runs; all its loads go through `loads`, and it reads again what `source`
    gives, by default the last of `changed`."""
    changed = [first]
    app = create_app(first, reread=source or (lambda: changed[-1]), **given)
    keeper = app.service.served
    assert isinstance(keeper, Keeper)
    keeper.clock = clock
    if loads is not None:
        keeper.loader = loads
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    client = httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30)
    async with app.running(), client:
        yield Demanded(client, app, changed)
