"""What is shown of a server at one moment, made of two readings: the last one, and the one before it for its rates.

It is bounded, whatever the server holds: of many children of one supervisor, and of many sequences, the first are shown
and the others counted. No text of a prompt or reply is in it, and no folder of the machine.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

import erllama_py as erllama
from erllama_py.serve.core.recent import Missed
from erllama_py.serve.core.served import ModelState, ServedState
from erllama_py.serve.operations.cache_names import labelled
from erllama_py.serve.operations.health import Health, Status
from erllama_py.serve.operations.protocol import without_folders
from erllama_py.serve.page.rates import per_second

MOST_CHILDREN = 100  # of one supervisor: an application may supervise thousands of its own tasks
MOST_SEQUENCES = 64  # of one model


class ModelReading(msgspec.Struct, frozen=True, kw_only=True):
    """What was read of one model that is loaded."""

    info: erllama.ModelInfo
    counters: erllama.ModelCounters
    sequences: tuple[erllama.SequenceInfo, ...] = ()


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What was read at one moment. `None`: it does not answer now."""

    at: float
    """Unix seconds."""
    clock: float
    """Seconds of a clock that never goes back."""
    health: Health
    since: float
    open: int
    open_limit: int
    draining: bool
    drills: bool
    served: ServedState | None = None
    models: tuple[ModelReading, ...] = ()
    aliases: Mapping[str, tuple[str, ...]] = {}
    """Further names of models, by their ids."""
    cache: Mapping[str, float] | None = None
    tiers: tuple[erllama.TierInfo, ...] | None = None
    tree: erllama.TreeNode | None = None
    missed: tuple[Missed, ...] = ()


class ServerNow(msgspec.Struct, frozen=True, kw_only=True):
    """The server."""

    version: str
    status: Status
    reason: str | None
    since: float
    """Since when it serves, in unix seconds."""
    open: int
    """Requests that are open."""
    open_limit: int
    """How many may be."""
    draining: bool
    """Whether it takes no new ones because it shuts down."""
    drills: bool
    """Whether models may be crashed on purpose."""


class Branch(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the supervision tree, see `TreeNode`."""

    name: str
    kind: str
    state: str
    restarts: int
    uptime: float | None
    last_failure: str | None
    detail: str | None
    children: tuple[Branch, ...] = ()
    left_out: int = 0
    """Further children, which are not shown."""


class CrashNow(msgspec.Struct, frozen=True, kw_only=True):
    """The last crash of a model, see `CrashReport`; without lines of its log."""

    at: float
    reason: str
    problem: str
    """All of it in a line."""
    pid: int | None
    doing: str | None
    doing_seconds: float
    requests: int
    """How many requests that was about."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What a model that is loaded does and holds. Sizes are in bytes, lengths in tokens."""

    phase: str
    description: str
    quant_type: str
    weights_bytes: int
    context_size: int
    can_generate: bool
    threads: int
    threads_used: int
    save_limits: str | None
    restarts: int
    isolation: str
    """Where its engine runs: `"thread"`, `"process"`."""
    pid: int | None
    """The process that it runs in; `None` while there is none."""
    last_crash: CrashNow | None
    """`None` before the first."""
    requests: int
    failed: int
    continued: int
    """How often a request went on after a crash."""
    waiting: int
    parked: int
    active: int
    embedding: int
    computed_tokens: int
    generated_tokens: int
    computed_per_second: float | None
    """Tokens of prompts; `None` where there is nothing to compare with."""
    generated_per_second: float | None
    cells: int
    cells_in_use: int
    cells_kept: int
    sequences: tuple[erllama.SequenceInfo, ...]
    sequences_left_out: int
    """Further sequences, which are not shown."""


class ModelNow(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is served, loaded or not."""

    id: str
    aliases: tuple[str, ...]
    standing: ModelState
    work: Work | None
    """`None` while it is not loaded."""


class TierNow(msgspec.Struct, frozen=True, kw_only=True):
    """A tier. Sizes are in bytes."""

    name: str
    kind: str
    quota_bytes: int
    used_bytes: int
    rows: int
    opened: float
    problem: str | None
    """Why it cannot be written; `None` when it can."""
    hits: int
    """Requests whose last row came from it."""


class CacheNow(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache has been asked for, counted since it was started."""

    hits: dict[str, int]
    """By what a request began with."""
    misses: dict[str, int]
    """By why it began with nothing."""


class MemoryNow(msgspec.Struct, frozen=True, kw_only=True):
    """The memory that models share, in bytes."""

    used_bytes: int
    """What models take."""
    reserved_bytes: int
    """What tiers in memory and buffers may take."""
    budget_bytes: int | None
    """What all may take together; `None`: no bound."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `None`: that part does not answer now."""

    at: float
    """Unix seconds."""
    server: ServerNow
    tree: Branch | None
    models: tuple[ModelNow, ...]
    memory: MemoryNow | None
    cache: CacheNow | None
    tiers: tuple[TierNow, ...] | None
    missed: tuple[Missed, ...]
    """The last requests that had to compute their prompt, or a part of it; the newest first."""


def snapshot(reading: Reading, before: Reading | None = None) -> Snapshot:
    """What is shown of a reading; rates are those since `before`."""
    counted = {} if before is None else {one.info.id: one.counters for one in before.models}
    seconds = 0.0 if before is None else reading.clock - before.clock
    return Snapshot(
        at=reading.at,
        server=ServerNow(
            version=erllama.__version__, status=reading.health.status, reason=reading.health.reason,
            since=reading.since, open=reading.open, open_limit=reading.open_limit, draining=reading.draining,
            drills=reading.drills,
        ),
        tree=None if reading.tree is None else branch(reading.tree),
        models=_models(reading, counted, seconds), memory=_memory(reading.served),
        cache=None if reading.cache is None else _cache(reading.cache),
        tiers=None if reading.tiers is None else tuple(_tier(one, reading.cache or {}) for one in reading.tiers),
        missed=reading.missed,
    )  # fmt: skip


def branch(node: erllama.TreeNode) -> Branch:
    """A part of the tree as it is shown."""
    shown = node.children[:MOST_CHILDREN]
    return Branch(
        name=node.name, kind=node.kind, state=node.state, restarts=node.restarts, uptime=node.uptime,
        last_failure=None if node.last_failure is None else without_folders(node.last_failure),
        detail=None if node.detail is None else without_folders(node.detail),
        children=tuple(map(branch, shown)), left_out=len(node.children) - len(shown),
    )  # fmt: skip


def _models(reading: Reading, before: Mapping[str, erllama.ModelCounters], seconds: float) -> tuple[ModelNow, ...]:
    loaded = {one.info.id: _work(one, before.get(one.info.id), seconds) for one in reading.models}
    standing = () if reading.served is None else reading.served.models
    return tuple(
        ModelNow(id=one.name, aliases=reading.aliases.get(one.name, ()), standing=one, work=loaded.get(one.name))
        for one in standing
    )


def _memory(served: ServedState | None) -> MemoryNow | None:
    if served is None:
        return None
    used, reserved = served.used_bytes, served.reserved_bytes
    return MemoryNow(used_bytes=used, reserved_bytes=reserved, budget_bytes=served.budget_bytes)


def _work(reading: ModelReading, before: erllama.ModelCounters | None, seconds: float) -> Work:
    info, now, sequences = reading.info, reading.counters, reading.sequences
    computed = None if before is None else before.computed_tokens
    generated = None if before is None else before.generated_tokens
    return Work(
        phase=info.phase, description=info.description, quant_type=info.quant_type, weights_bytes=info.size,
        context_size=info.context_size, can_generate=info.can_generate, threads=info.threads,
        threads_used=info.threads_used, save_limits=info.save_limits, restarts=now.restarts,
        isolation=info.config.isolation, pid=info.pid,
        last_crash=None if info.last_crash is None else _crash(info.last_crash), requests=now.requests,
        failed=now.failed, continued=now.continued, waiting=now.waiting, parked=now.parked, active=now.active,
        embedding=now.embedding,
        computed_tokens=now.computed_tokens, generated_tokens=now.generated_tokens,
        computed_per_second=per_second(now.computed_tokens, computed, seconds),
        generated_per_second=per_second(now.generated_tokens, generated, seconds),
        cells=now.cells, cells_in_use=now.cells_in_use, cells_kept=now.cells_kept,
        sequences=sequences[:MOST_SEQUENCES], sequences_left_out=max(0, len(sequences) - MOST_SEQUENCES),
    )  # fmt: skip


def _crash(report: erllama.CrashReport) -> CrashNow:
    return CrashNow(
        at=report.at, reason=report.reason, problem=without_folders(report.problem), pid=report.pid, doing=report.doing,
        doing_seconds=report.doing_seconds, requests=len(report.requests),
    )  # fmt: skip


def _tier(info: erllama.TierInfo, counters: Mapping[str, float]) -> TierNow:
    return TierNow(
        name=info.name, kind=info.kind, quota_bytes=info.quota_bytes, used_bytes=info.used_bytes, rows=info.rows,
        opened=info.opened, problem=None if info.problem is None else without_folders(info.problem),
        hits=int(counters.get(f"hits.tier.{info.name}", 0)),
    )  # fmt: skip


def _cache(counters: Mapping[str, float]) -> CacheNow:
    hits, misses = dict[str, int](), dict[str, int]()
    for name, count in counters.items():
        kind, label = labelled(name)
        if kind in ("hits", "misses"):
            (hits if kind == "hits" else misses)[label] = int(count)
    return CacheNow(hits=hits, misses=misses)
