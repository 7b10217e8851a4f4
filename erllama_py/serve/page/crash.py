"""`POST /erllama/models/{name}/crash`: a drill. The model fails, and its supervisor brings it back as after a fault.

For operators, unless `drills` of the server's settings is off; so seldom that the model is not given up.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, get_args

import msgspec
from starlette.types import ASGIApp

from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.page.drills import Drilled, bound, wait, with_one
from erllama_py.watch.log import get_logger

UP = frozenset(("idle", "prefilling", "generating"))  # a fault has no effect while a model loads


Place = Literal["actor", "thread", "decode", "assertion", "process"]
NATIVE = frozenset(("assertion", "process"))  # what ends a process: only for models that have one of their own


class CrashRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to fail."""

    where: Place = "thread"
    """The model's actor, its engine thread, or its next decode: see `Model.inject_fault`. Where the model has a process
    of its own, also that: by an assertion of llama.cpp in the next decode, or at once by SIGSEGV (`"process"`)."""


class Crashed(msgspec.Struct, frozen=True, kw_only=True):
    """A drill that has begun."""

    model: str
    """The model's id."""
    where: str
    restarts: int
    """How often it had come back before: there will be one more."""


class Drills:
    """The handler, which remembers the last drills. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, Drilled] = {}

    async def __call__(self, exchange: Exchange) -> ASGIApp:
        """Crash a model on purpose, as a real fault does: it is loaded again, and its open requests go on."""
        exchange.check_operator()
        if not exchange.service.settings.drills:
            raise Problem("forbidden", "drills are switched off on this server", code="drills_off")
        where = (await exchange.body(CrashRequest)).where
        info, now = exchange.info(exchange.request.path_params["name"]), self._clock()
        if info.phase not in UP:
            raise Problem("conflict", f"the model is {info.phase}: there is nothing to crash", code="not_up")
        if where in NATIVE and info.config.isolation != "process":
            others = ", ".join(repr(one) for one in get_args(Place) if one not in NATIVE)
            message = f"where: the model has no process of its own that {where!r} could end; expected one of {others}"
            raise Problem("conflict", message, code="no_process")
        model = exchange.service.runtime.model(info.id)
        most = bound(info.config.restarts.intensity, info.config.restarts.period, info.load_seconds)
        if not most.most:
            raise Problem(
                "conflict", "restarts: the model is never restarted, so a drill would end it", code="no_restarts"
            )
        if seconds := wait(self._last[model.id].at if model.id in self._last else (), now, most):
            drills = f"{most.most} drill{'s' if most.most > 1 else ''} of this model in {most.seconds:.0f} s"
            message = f"{drills}, so that its supervisor does not give it up"
            raise Problem("rate_limited", f"{message}; again in {seconds} s", code="drill_limit", retry_after=seconds)
        if where != "process":
            model.inject_fault(where)
        elif info.pid is not None:
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(info.pid, signal.SIGSEGV)
        self._last = with_one(self._last, model.id, now, most)
        get_logger(model=model.id).warning("a drill: the model is crashed on purpose", where=where)
        return json_response(Crashed(model=model.id, where=where, restarts=info.restarts))
