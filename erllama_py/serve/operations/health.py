"""`GET /health`: whether requests are answered now, and why not. `GET /health/live`: whether the process is to go on.

Neither names a model: both are open to everybody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import msgspec
from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.service import Service

Status = Literal["ok", "starting", "loading", "restarting", "hanging", "failed", "draining"]
RETRY_SECONDS = "5"


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How the server is."""

    status: Status
    """`"ok"`, or in a word why not."""
    reason: str | None = None
    """A sentence; `None` where all is well."""
    models: dict[str, int] = {}
    """How many models there are, by what they do; `resting`: not loaded, since nobody wants them now."""


# The worst first: phases of models, and what is said where one is in them.
NOT_READY: Mapping[Status, tuple[frozenset[str], str]] = {
    "failed": (frozenset({"failed"}), "crashed too often, or cannot be loaded"),
    "hanging": (frozenset({"hanging"}), "computing for far too long"),
    "restarting": (frozenset({"restarting"}), "being restarted after a crash"),
    "loading": (frozenset({"loading", "unloaded"}), "being loaded"),
}


def readiness(phases: Mapping[str, int], missing: int, *, draining: bool, resting: int = 0) -> Health:
    """How a server is whose runtime is open: its models by phase, those that are to come, and whether it is ending.

    `resting` are not loaded because nobody wants them: they are in nobody's way.
    """
    models = {**phases, **({"loading": phases.get("loading", 0) + missing} if missing else {})}
    total = sum(models.values()) + resting
    if draining:
        return Health(status="draining", reason="the server is shutting down", models=models)
    for status, (among, what) in NOT_READY.items():
        if count := sum(models.get(phase, 0) for phase in among):
            return Health(status=status, reason=f"models: {count} of {total} {what}", models=models)
    if not total:
        return Health(status="loading", reason="no model is loaded yet")
    return Health(status="ok", models=models | ({"resting": resting} if resting else {}))


def health_of(service: Service) -> Health:
    """How a server is now."""
    try:
        states = service.states().models
        missing = {*service.missing().values()}
    except erllama.RuntimeFailed:
        return Health(status="failed", reason="the supervision tree gave up; the log says why")
    except erllama.ErllamaError:
        draining = service.open.draining
        reason = "the server is shutting down" if draining else "the runtime is not open"
        return Health(status="draining" if draining else "starting", reason=reason)
    there = [one.phase or "unloaded" for one in states if one.state == "loaded" and one.name not in missing]
    failed = [one.state for one in states if one.state == "failed" and one.load == "start"]
    resting = len({one.name for one in states} - missing) - len(there) - len(failed)
    return readiness(Counter((*there, *failed)), len(missing), draining=service.open.draining, resting=max(0, resting))


async def health(exchange: Exchange) -> ASGIApp:
    """Whether requests are answered now: 200, or 503 with the reason."""
    found = health_of(exchange.service)
    if found.status == "ok":
        return json_response(found)
    return json_response(found, 503, {"retry-after": RETRY_SECONDS})


async def live(exchange: Exchange) -> ASGIApp:
    """Whether the process is to go on: 503 once the supervision tree gave up, so that whoever started it does again."""
    try:
        exchange.service.runtime.list_models()
    except erllama.RuntimeFailed:
        return json_response(health_of(exchange.service), 503)
    except erllama.ErllamaError:
        pass
    return json_response(Health(status="ok"))
