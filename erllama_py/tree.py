"""The supervision tree as data: its members, their order, and how each is restarted.

`TREE` is the whole of it, and `build` makes supervisors of it. The page `docs/internals/actors.md` shows it drawn, and
a test compares the two. Children start from top to bottom and stop from bottom to top, so agent
loops end before the models they use. This file sees every room and decides nothing at run time.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from erllama_py.actors import (
    Actor,
    ActorRun,
    ChildSpec,
    DynamicSupervisor,
    FunctionRun,
    MonotonicClock,
    Names,
    Restart,
    RestartLimits,
    Runnable,
    Strategy,
    Supervisor,
)
from erllama_py.buffers import BufferPool
from erllama_py.cache.actor import CacheActor
from erllama_py.engine import SourceFactory
from erllama_py.model.actor import ModelActor
from erllama_py.model.board import ModelBoard
from erllama_py.model.companion import companion_name
from erllama_py.model.embedders import Place
from erllama_py.options.process import RestartOpts
from erllama_py.options.runtime import PressureOpts
from erllama_py.options.tiers import RAM_TIER, RamTier, TierSpec
from erllama_py.scheduler.messages import actor_name
from erllama_py.tiers.directory import DirectoryTier
from erllama_py.tiers.messages import CACHE, tier_actor_name
from erllama_py.tiers.ram import RamTier as RamTierActor
from erllama_py.watch.failures import log_failure
from erllama_py.watch.pressure import Evict, PressureMonitor


@dataclass(frozen=True)
class Group:
    """A supervisor of actors that are started with the runtime, in this order. The others go on when it gives up."""

    name: str
    strategy: Strategy
    holds: tuple[tuple[str, str], ...]  # each child's name, and what it is
    limits: RestartLimits  # of all of them together


@dataclass(frozen=True)
class Branch:
    """A supervisor that holds children of one sort, added and removed while it runs."""

    name: str
    holds: str  # what its children are, for the drawing


# Five restarts in a minute: a model that crashes on one bad request comes back for the next ones, a model that
# crashes on every load gives up within half a minute, backoff included. `restarts` of a model says otherwise.
# The first delay is shorter than that of others: streams wait for it.
MODEL_LIMITS = RestartLimits(intensity=5, period=60.0, backoff_first=0.01)
# A directory that is gone for a moment comes back within the backoff; one that is gone for good is given up.
TIER_LIMITS = RestartLimits(intensity=5, period=60.0)
# The cache and its tier in memory depend on nothing outside: more failures than this are a fault of theirs.
CACHE_LIMITS = RestartLimits(intensity=5, period=60.0)
WATCH_LIMITS = RestartLimits(intensity=5, period=60.0)
# Agent loops fail for outside reasons (a service that is down) and cost nothing to restart.
USER_LIMITS = RestartLimits(intensity=10, period=60.0)

# A decode on the CPU is aborted within one of the model's layers; the rest is for a slow machine to free weights of
# tens of gigabytes. It is waited for twice, so an engine has 15 seconds to end before it is abandoned.
MODEL_STOP_SECONDS = 7.5
USER_STOP_SECONDS = 5.0
# All rows of a directory may be reported at once, and every model's saves: messages are small.
MAILBOX = 100_000
# What a tier that stops may still do: end the writes that have begun, of one row each, on a slow disk.
TIER_STOP_SECONDS = 30.0
# Memory that a tier reads rows into and uses again: what one restore has in flight, for rows of 30 MB.
TIER_READ_BYTES = 128 << 20

ROOT = "runtime"
ROOT_LIMITS = RestartLimits(intensity=3, period=60.0)
PRESSURE = "pressure"
TREE: tuple[Group | Branch, ...] = (
    # A cache that crashes must not take the rows in memory with it, so their tier stands before it.
    Group(
        "cache",
        "rest_for_one",
        (
            (tier_actor_name(RAM_TIER), RamTier.label),
            (CACHE, "the index of all rows; decides what is saved and what is evicted"),
        ),
        CACHE_LIMITS,
    ),
    Branch("tiers", "one actor per directory of rows, by name"),
    Branch("watch", "the pressure monitor, where one was asked for"),
    Branch("models", "one model actor per loaded model, per companion and per embedder, each with a thread"),
    Branch("user", "what runtime.supervise was given: agent loops"),
)


def build(ram: RamTier, names: Names) -> tuple[Supervisor, dict[str, DynamicSupervisor]]:
    """The root, and the branches that are up now, by name: a restarted branch takes its predecessor's place."""
    running: dict[str, DynamicSupervisor] = {}
    actors: dict[str, Callable[[], Actor[Any]]] = {
        tier_actor_name(RAM_TIER): lambda: RamTierActor(RAM_TIER, ram),
        CACHE: CacheActor,
    }

    def start(place: Group | Branch) -> Runnable:
        if isinstance(place, Group):
            children = [_actor_spec(name, actors[name], names) for name, _ in place.holds]
            return Supervisor(place.name, children, place.strategy, place.limits, on_failure=log_failure)
        running[place.name] = DynamicSupervisor(place.name, on_failure=log_failure)
        return running[place.name]

    # A branch has no deadline of its own: each of its children has one.
    children = [
        ChildSpec(place.name, partial(start, place), stop_timeout=math.inf, vital=isinstance(place, Branch))
        for place in TREE
    ]
    return Supervisor(ROOT, children, limits=ROOT_LIMITS, on_failure=log_failure), running


def _actor_spec(name: str, make: Callable[[], Actor[Any]], names: Names) -> ChildSpec:
    return ChildSpec(name, lambda: ActorRun(name, make, names, capacity=MAILBOX))


def tier_child(name: str, spec: TierSpec, names: Names) -> ChildSpec:
    """A tier in a directory: it brings its rows back when it is restarted."""
    actor = tier_actor_name(name)
    return ChildSpec(
        actor,
        lambda: ActorRun(
            actor, lambda: DirectoryTier(name, spec, BufferPool(TIER_READ_BYTES)), names, capacity=MAILBOX
        ),
        stop_timeout=TIER_STOP_SECONDS,
        limits=TIER_LIMITS,
        detail=lambda: spec.label,
    )


def pressure_child(opts: PressureOpts, evict: Evict, names: Names) -> ChildSpec:
    """The pressure monitor."""
    return ChildSpec(
        PRESSURE,
        lambda: ActorRun(PRESSURE, lambda: PressureMonitor(opts, evict, MonotonicClock()), names),
        limits=WATCH_LIMITS,
    )


def model_child(
    board: ModelBoard, names: Names, make_backend: SourceFactory, remember: Path, buffers: BufferPool
) -> ChildSpec:
    """A model: restarted whenever it ends by itself, each time as a new actor on a new engine thread.

    A companion is not: the next request that needs one begins it.
    """
    name = actor_name(board.model_id) if board.lender is None else companion_name(board.model_id)
    return ChildSpec(
        name,
        lambda: ActorRun(name, lambda: ModelActor(board, make_backend, remember, buffers), names),
        restart="permanent" if board.lender is None else "temporary",
        stop_timeout=MODEL_STOP_SECONDS,
        limits=model_limits(board.config.restarts),
        detail=board.describe,
        on_ended=board.ended,
    )


def model_limits(restarts: RestartOpts) -> RestartLimits:
    """The budget of a model's restarts."""
    if restarts == RestartOpts():
        return MODEL_LIMITS
    return RestartLimits(
        intensity=restarts.intensity, period=restarts.period, backoff_max=restarts.backoff_max,
        backoff_first=min(MODEL_LIMITS.backoff_first, restarts.backoff_max),
    )  # fmt: skip


def embedder_child(place: Place, names: Names) -> ChildSpec:
    """What computes a model's embeddings. It is not restarted: the next call begins another."""
    return ChildSpec(
        place.name,
        lambda: ActorRun(place.name, place.make, names),
        restart="temporary",
        stop_timeout=MODEL_STOP_SECONDS,
        limits=MODEL_LIMITS,
        detail=place.describe,
    )


def user_child(
    name: str, function: Callable[[], Awaitable[object]], restart: Restart, limits: RestartLimits | None
) -> ChildSpec:
    """A coroutine function of the user's, with the same rights as a model."""
    return ChildSpec(
        name,
        lambda: FunctionRun(function),
        restart=restart,
        stop_timeout=USER_STOP_SECONDS,
        limits=limits or USER_LIMITS,
    )
