"""A runtime with a tier in a directory and a stub model that saves to it, for the stories of the shared cache.

Gates are small, so that a prompt of 300 tokens has some rows. The stub's cells are checksums chained over the tokens:
a row in the wrong place, a missing one or one too many changes the reply. `cold` is what a runtime without a
past answers; every warm reply is to be compared with it.
"""

from __future__ import annotations

import random
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import erllama_py as erllama
from erllama_py.cache.waiting import Waiting
from erllama_py.engine import BackendFactory, make_backend
from erllama_py.engine.backend import Backend, DecodeStatus, Slice
from erllama_py.engine.stub import StubBackend
from erllama_py.engine.stub_logits import END_ODDS, LETTERS
from erllama_py.options.model import ModelConfig
from erllama_py.results import TierInfo
from erllama_py.tiers.base import TierActor
from erllama_py.tiers.directory import DirectoryTier
from erllama_py.tiers.messages import Put, StoredRow
from erllama_py.tiers.ram import RamTier

WINDOW = 96
MEMORIES: dict[str, dict[str, Any]] = {
    "full": {},
    "window": {"memory": "window", "n_swa": WINDOW},
    "recurrent": {"memory": "recurrent"},
    "hybrid": {"memory": "hybrid"},
}
# Rows of 64 tokens; a reply's are saved every 24.
POLICY: dict[str, Any] = {
    "min_tokens": 32, "boundary_align_tokens": 64, "boundary_trim_tokens": 8, "continued_interval": 24,
}  # fmt: skip
CONTEXT: dict[str, Any] = {"n_ctx": 4096, "n_seq_max": 1, "n_batch": 256, "n_ubatch": 64}
QUOTA = 64 << 20
TIER = "d"


def text(length: int, seed: int = 0) -> str:
    """So many ASCII letters, each a token of the stub; no two seeds begin alike."""
    return "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz ", k=length))


def config(memory: str = "full", *, kind: str | None = None, policy: Any = None, **more: Any) -> Any:
    """A model's configuration: `kind` is the tier's, None the one in memory; `policy` changes gates."""
    tier = {} if kind is None else {"tier": kind, "tier_srv": TIER}
    context = {**CONTEXT, **more.pop("context_opts", {})}
    stub = {**MEMORIES[memory], **more.pop("stub", {})}
    gates = {**POLICY, **(policy or {})}
    return {"backend": "stub", "stub": stub, "context_opts": context, "policy": gates, **tier, **more}


PROMPT = text(300, seed=125)  # a reply to it ends by itself only after 341 tokens


@asynccontextmanager
async def runtime_at(
    root: Path, kind: str = "disk", *, quota_bytes: int = QUOTA, make: BackendFactory = make_backend,
    known: bool = True, **options: Any,
) -> AsyncIterator[erllama.Runtime]:  # fmt: skip
    """An open runtime with the tier `d` in `root`, all of whose rows are `known`."""
    tiers: dict[str, erllama.TierDict] = {TIER: {"kind": kind, "root": root, "quota_bytes": quota_bytes}}
    async with erllama.Runtime(tiers=tiers, backend_factory=make, **options) as runtime:
        if known:
            await opened(runtime)
        yield runtime


@asynccontextmanager
async def model_at(
    root: Path, memory: str = "full", kind: str = "disk", *, policy: Any = None, quota_bytes: int = QUOTA,
    make: BackendFactory = make_backend, runtime_options: Any = None, **more: Any,
) -> AsyncIterator[tuple[erllama.Runtime, erllama.Model]]:  # fmt: skip
    """The same, and a model `m` that saves to it; `more` goes into its configuration."""
    async with runtime_at(root, kind, quota_bytes=quota_bytes, make=make, **(runtime_options or {})) as runtime:
        yield runtime, await runtime.load_model("m", config(memory, kind=kind, policy=policy, **more))


@asynccontextmanager
async def ram_model(
    memory: str = "full", *, policy: Any = None, make: BackendFactory = make_backend, runtime_options: Any = None,
    **more: Any,
) -> AsyncIterator[tuple[erllama.Runtime, erllama.Model]]:  # fmt: skip
    """A runtime and a model `m` that saves to memory."""
    async with erllama.Runtime(backend_factory=make, **(runtime_options or {})) as runtime:
        yield runtime, await runtime.load_model("m", config(memory, policy=policy, **more))


async def ask(model: erllama.Model, prompt: Any, length: int = 12, **options: Any) -> erllama.Completion:
    """A greedy reply."""
    return await model.complete(prompt, **{"response_tokens": length, "temperature": 0.0, **options})


async def cold(prompt: Any, length: int = 12, memory: str = "full", **more: Any) -> str:
    """What a runtime without a past replies."""
    async with ram_model(memory, policy={"min_tokens": None, "cold_min_tokens": None}, **more) as (_, model):
        reply = await ask(model, prompt, length)
    assert reply.cache_hit_kind == "cold"
    return reply.reply


def stub_reply(prompt: Sequence[int], length: int) -> list[int]:
    """The tokens of a greedy reply, from the prompt alone."""
    value, reply = 0, list[int]()
    for token in prompt:
        value = zlib.crc32(token.to_bytes(4, "little"), value)
    while len(reply) < length and value % END_ODDS:
        reply.append(LETTERS[value % len(LETTERS)])
        value = zlib.crc32(reply[-1].to_bytes(4, "little"), value)
    return reply


async def until_true(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask until the answer is yes; fails rather than hangs."""
    with anyio.fail_after(20):
        while not await condition():
            await anyio.lowlevel.checkpoint()


async def tier_info(runtime: erllama.Runtime, name: str = TIER) -> TierInfo:
    """What the cache knows of a tier."""
    return next(tier for tier in await runtime.cache.tiers() if tier.name == name)


async def opened(runtime: erllama.Runtime, name: str = TIER) -> None:
    """Wait until a tier runs and all of its rows are known."""

    async def known() -> bool:
        try:
            tiers = await runtime.cache.tiers()
        except erllama.CacheUnavailable:
            return False
        return any(tier.name == name and tier.opened == 1.0 for tier in tiers)

    await until_true(known)


async def spans(runtime: erllama.Runtime, tier: str | None = None) -> set[tuple[int, int]]:
    """Start and end of every row."""
    return {(row.start, row.end) for row in await runtime.cache.rows() if tier in (None, row.tier)}


def row_files(root: Path) -> list[Path]:
    """The files of all rows below a tier's directory."""
    return sorted((root / "rows").glob("*"))


def look_up_waits(monkeypatch: pytest.MonkeyPatch) -> anyio.Event:
    """Set once the cache lets a look-up wait for a save."""
    waits, add = anyio.Event(), Waiting.add

    def add_and_tell(self: Waiting, *args: Any) -> None:
        add(self, *args)
        waits.set()

    monkeypatch.setattr(Waiting, "add", add_and_tell)
    return waits


class Stalling:
    """Makes backends that stall after so many decodes, until the decode is aborted. `stalled` says that one does."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.stalled = threading.Event()

    def __call__(self, model_id: str, model_config: ModelConfig) -> Backend:
        plan = self

        class Backend(StubBackend):
            def decode(self, slices: Sequence[Slice]) -> DecodeStatus:
                if self.decodes < plan.after:
                    return super().decode(slices)
                plan.stalled.set()
                self._abort.wait()
                return DecodeStatus.ABORTED

        return Backend(model_id, model_config)


class Gate:
    """Stops every `Put` of both sorts of tiers at its beginning, until it is opened; lets `after` through before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int = 0) -> None:
        self.reached = anyio.Event()
        self.puts = 0
        self.error: BaseException | None = None  # raised in place of the next ones
        self._after = after
        self._open = anyio.Event()
        for tier in (DirectoryTier, RamTier):
            monkeypatch.setattr(tier, "put", self._gated(tier.put))

    @property
    def opened(self) -> bool:
        """Whether they may go on."""
        return self._open.is_set()

    def open(self) -> None:
        """Let all go on."""
        self._open.set()

    def _gated(self, put: Callable[[Any, Put], Awaitable[StoredRow]]) -> Callable[..., Awaitable[StoredRow]]:
        async def gated(tier: TierActor, message: Put) -> StoredRow:
            self.puts += 1
            if self.puts > self._after:
                self.reached.set()
                await self._open.wait()
                if self.error is not None:
                    raise self.error
            return await put(tier, message)

        return gated


class Held:
    """Calls of one async method, held up until it is opened; the first `after` go through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, method: str, after: int = 0) -> None:
        self.reached = anyio.Event()
        self._open = anyio.Event()
        self._left = after
        original = getattr(owner, method)

        async def held(*args: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                self.reached.set()
                await self._open.wait()
            return await original(*args)

        monkeypatch.setattr(owner, method, held)

    def open(self) -> None:
        """Let all go on."""
        self._open.set()
