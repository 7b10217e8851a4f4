"""Which models are served, what each does, and a request's hold on one of them.

`Served` is what an application puts in: `Loaded` serves what a host has loaded into its runtime, and the room `demand`
loads and unloads by itself. A request has a model by a `Lease`: until that is released the model stays loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

import erllama_py as erllama
from erllama_py.serve.core.problems import Problem

LOADING_SECONDS = 5  # after which a client may ask again for a model that is being loaded

Standing = Literal["unloaded", "waiting", "loading", "loaded", "unloading", "failed"]
"""`"waiting"`: for memory. `"unloading"`: it takes no request any more, and goes when the last one is over that has it.
`"failed"`: its last load did, and it is not tried again yet."""


class ModelState(msgspec.Struct, frozen=True, kw_only=True):
    """One model that is served, loaded or not. Sizes are in bytes, times in unix seconds."""

    name: str
    """Its id in the runtime."""
    state: Standing
    """Where it stands."""
    phase: str | None = None
    """What it does, as in `ModelInfo`; `None` while it is not loaded."""
    memory_bytes: int = 0
    """What it takes while it is loaded: weights, KV cells and what decodes need, as estimated."""
    load: Literal["start", "demand"] = "start"
    """When it is loaded."""
    pinned: bool = False
    """Whether it is never unloaded to make room, nor by time."""
    keep_alive: float | None = None
    """Seconds without a request after which it is unloaded; `None`: never."""
    open: int = 0
    """Requests that have it."""
    waiting: int = 0
    """Requests that wait for it."""
    last_used: float | None = None
    """When a request last had it; `None`: never."""
    expires_at: float | None = None
    """When it is unloaded unless a request comes; `None`: not by time."""
    problem: str | None = None
    """Why it could not be loaded, or is not restarted any more; `None` where neither is so."""
    loads: int = 0
    """How often it was loaded."""
    failed_loads: int = 0
    """How often that failed."""
    pid: int | None = None
    """The process that runs its engine, one of its own or the server's; `None` while there is none."""
    restarts: int = 0
    """How often it came back after a crash since it was loaded."""
    last_crash: str | None = None
    """What ended it last, in a line; `None` before the first crash."""
    unloads: Mapping[str, int] = {}
    """How often it was unloaded, by why: `"memory"` for another model, `"idle"`, `"asked"`, `"changed"`; `"failed"`: it
    crashed too often."""


def with_crashes(state: ModelState, info: erllama.ModelInfo) -> ModelState:
    """A model that is loaded, with its process and its crashes."""
    crash = None if info.last_crash is None else str(info.last_crash)
    return msgspec.structs.replace(state, pid=info.pid, restarts=info.restarts, last_crash=crash)


def with_end(state: ModelState, runtime: erllama.Runtime) -> ModelState:
    """A model, with why it is not restarted any more, where that is so: it need not be its last crash, as each try to
    come back counts too."""
    if state.phase != "failed":
        return state
    parts = (part for room in runtime.tree().children for part in room.children)
    failure = next((part.last_failure for part in parts if part.name == f"model:{state.name}"), None)
    return msgspec.structs.replace(state, problem=failure)


class ServedState(msgspec.Struct, frozen=True, kw_only=True):
    """All models that are served, and the memory that they share. Sizes are in bytes."""

    models: tuple[ModelState, ...]
    """In the order of the configuration."""
    budget_bytes: int | None = None
    """What models, tiers in memory and buffers may take together; `None`: no bound."""
    reserved_bytes: int = 0
    """What of it tiers in memory and buffers may take."""
    used_bytes: int = 0
    """What models take, those that are being loaded or unloaded among them."""


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What a changed configuration has changed: names of models, and places in the file."""

    added: tuple[str, ...] = ()
    """Models that are new."""
    removed: tuple[str, ...] = ()
    """Models that are served no more: they go once nobody has them."""
    replaced: tuple[str, ...] = ()
    """Models that go once nobody has them, and come back as they are configured now."""
    changed: tuple[str, ...] = ()
    """What else has changed, and holds at once."""
    needs_restart: tuple[str, ...] = ()
    """What has changed and cannot while the server runs: it stays as it was."""


class Lease:
    """A request's hold on a loaded model. To release it twice is to release it once."""

    def __init__(self, model_id: str, release: Callable[[], object] = lambda: None) -> None:
        self.model_id = model_id
        self._release: Callable[[], object] | None = release

    def release(self) -> None:
        """Let go of the model."""
        release, self._release = self._release, None
        if release is not None:
            release()


class Served(Protocol):
    """Which models are served. Ids are those of the runtime."""

    def infos(self) -> Sequence[erllama.ModelInfo]:
        """What is known of each, loaded or not, whose first load is not awaited. Raises `RuntimeClosed`."""

    def chat_format(self, model_id: str) -> erllama.ChatFormat | None:
        """How a model that is not loaded writes conversations, as its file says; None where it says that itself."""

    def missing(self) -> Iterable[str]:
        """Ids of those that are to be there already and are not."""

    def state(self) -> ServedState:
        """What each does now. Raises `RuntimeClosed`."""

    def try_lease(self, model_id: str) -> Lease | None:
        """A hold on one that is loaded and may be had at once; None where a request waits for it by `lease`."""

    async def lease(self, model_id: str) -> Lease:
        """A hold on one of `infos`, loaded if it is not. Raises `Problem`, and what a load raises."""

    def keep(self, model_id: str, seconds: float | None) -> bool:
        """Unload it after so long without a request, in place of what is configured, until it is unloaded; whether
        that may be asked of it."""

    async def load(self, model_id: str) -> None:
        """Have it loaded. Raises `Problem`, and what a load raises."""

    def unload(self, model_id: str) -> None:
        """Have it unloaded once nobody has it. Raises `Problem`."""


class Loaded:
    """What is loaded in a runtime by its host; of these `only` some ids, where that is given."""

    def __init__(self, runtime: erllama.Runtime, only: Iterable[str] | None = None) -> None:
        self._runtime = runtime
        self._only = None if only is None else tuple(dict.fromkeys(only))

    def infos(self) -> list[erllama.ModelInfo]:
        """See `Served`."""
        return [one for one in self._runtime.list_models() if self._only is None or one.id in self._only]

    def chat_format(self, model_id: str) -> None:
        """See `Served`: it is loaded."""

    def missing(self) -> list[str]:
        """See `Served`."""
        loaded = {one.id for one in self._runtime.list_models()}
        return [name for name in self._only or () if name not in loaded]

    def state(self) -> ServedState:
        """See `Served`."""
        models = tuple(
            with_end(
                with_crashes(
                    ModelState(name=one.id, state="loaded", phase=one.phase, memory_bytes=one.memory_estimate), one
                ),
                self._runtime,
            )
            for one in self.infos()
        )
        missing = tuple(ModelState(name=name, state="loading") for name in self.missing())
        return ServedState(models=models + missing, used_bytes=sum(one.memory_bytes for one in models))

    def try_lease(self, model_id: str) -> Lease:
        """See `Served`."""
        return Lease(model_id)

    async def lease(self, model_id: str) -> Lease:
        """See `Served`."""
        return Lease(model_id)

    def keep(self, model_id: str, seconds: float | None) -> bool:
        """Its host unloads it, or does not."""
        return False

    async def load(self, model_id: str) -> None:
        """See `Served`."""
        raise _of_its_host()

    def unload(self, model_id: str) -> None:
        """See `Served`."""
        raise _of_its_host()


def _of_its_host() -> Problem:
    message = "models are loaded and unloaded by the program that has this server in it"
    return Problem("forbidden", message, code="not_served")


def being_loaded() -> Problem:
    """What a request is told whose model is not there yet."""
    return Problem("unavailable", "the model is being loaded", code="model_loading", retry_after=LOADING_SECONDS)
