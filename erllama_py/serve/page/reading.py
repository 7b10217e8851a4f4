"""What the snapshots are made of, read from a runtime: probes, which cost no message, and the cache's answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

import erllama_py as erllama
from erllama_py.serve.core.served import ServedState
from erllama_py.serve.core.service import Service
from erllama_py.serve.operations.health import health_of
from erllama_py.serve.operations.models import shown
from erllama_py.serve.page.snapshot import ModelReading, Reading

T = TypeVar("T")
READ_SECONDS = 2.0  # what has not answered by then is left out


async def read(service: Service) -> Reading:
    """What is known now; never raises where a part of the runtime is not there."""
    cache = service.runtime.cache
    counters, tiers = await asyncio.gather(_or_none(cache.counters()), _or_none(cache.tiers()))
    return Reading(
        at=time.time(), clock=time.monotonic(), health=health_of(service), since=service.started_at,
        open=len(service.open), open_limit=service.settings.max_open, draining=service.open.draining,
        drills=service.settings.drills, served=_served(service), models=_models(service), aliases=_aliases(service),
        cache=counters, tiers=None if tiers is None else tuple(tiers), tree=_tree(service),
        missed=tuple(service.recent.missed()),
    )  # fmt: skip


def _served(service: Service) -> ServedState | None:
    try:
        return shown(service)
    except erllama.ErllamaError:  # the runtime is not open
        return None


def _models(service: Service) -> tuple[ModelReading, ...]:
    try:
        infos = service.runtime.list_models()
        models = [(info, service.runtime.model(info.id)) for info in infos]
        return tuple(
            ModelReading(info=info, counters=model.counters, sequences=model.sequences) for info, model in models
        )
    except erllama.ErllamaError:
        return ()


def _aliases(service: Service) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for alias, name in service.aliases.items():
        found[name] = (*found.get(name, ()), alias)
    return found


def _tree(service: Service) -> erllama.TreeNode | None:
    try:
        return service.runtime.tree()
    except erllama.ErllamaError:
        return None


async def _or_none(work: Awaitable[T]) -> T | None:
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await work
    except (erllama.ErllamaError, TimeoutError):
        return None
