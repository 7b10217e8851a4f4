"""The soak of a model that crashes all the time, by native code or by faults in Python: see `helpers.soak`.

Beside what others do there are requests with a schema, reproducible ones, and calls for vectors. A crash comes whenever
`moments` says so, wherever the model is. No call may fail by it but `evict`, which has nothing to save then.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import numpy as np

import erllama_py as erllama
from erllama_py.scheduler.messages import FaultPlace
from helpers.soak import CONTEXT, POLICY, SCHEDULER, SameAsBefore, Soak
from helpers.storm import GUARD_SECONDS, RESTARTS, SCHEMA, TEXTS, wait
from helpers.tiny_gguf import Kind, tiny_gguf
from helpers.watched import Watch

Isolation = Literal["thread", "process"]
Moments = Callable[["CrashSoak"], AsyncIterator[None]]
"""When the crashes are."""

FAULTS: tuple[FaultPlace, ...] = ("actor", "thread", "decode")
SIGNALS = (
    signal.SIGSEGV, signal.SIGSEGV, signal.SIGKILL, signal.SIGKILL, signal.SIGABRT, signal.SIGILL, signal.SIGSTOP
)  # fmt: skip


async def crash_soaked(
    runtime: erllama.Runtime, isolation: Isolation, kind: Kind, folder: Path, watch: Watch, seed: int = 0
) -> CrashSoak:
    """A soak of a tiny model of its own; as `soaked`."""
    options: Any = {
        "model_path": tiny_gguf(kind, folder), "isolation": isolation, "context_opts": CONTEXT, "policy": POLICY,
        "scheduler": SCHEDULER | {"reproducible_idle_ms": 50, "embed_idle_ms": 50}, "restarts": RESTARTS,
    }  # fmt: skip
    return CrashSoak(runtime, await runtime.load_model("m", options), watch, SameAsBefore(), seed)


class CrashSoak(Soak):
    """See the module."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._vectors: Any = None
        self._written: dict[tuple[int, ...], list[int]] = {}

    @property
    def model(self) -> erllama.Model:
        """The one that crashes."""
        return self._model

    def kinds(self) -> list[Callable[[], Any]]:
        """Those of other soaks, and what has an engine of its own or a structure."""
        return [*super().kinds(), self._structured, self._reproducible, self._embed]

    async def at_rest(self) -> None:
        """No request is left, and the books were never wrong. The cells are in another process."""
        await wait(lambda: not self._watch.is_busy(self._model.id), f"{self._watch.stages(self._model.id)}")
        assert self._watch.wrong == [], self._watch.wrong[:10]

    @asynccontextmanager
    async def crashing(self, moments: Moments) -> AsyncIterator[None]:
        """While the block runs, the model crashes again and again."""

        async def crash_all() -> None:
            async for _ in moments(self):
                await self.crash()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(crash_all)
            yield
            tasks.cancel_scope.cancel()

    async def crash(self) -> None:
        """Once, and return when the model has come back."""
        model, restarts = self._model, self._model.info.restarts
        pid = model.info.pid
        if model.info.config.isolation == "thread":
            place = self._random.choice(FAULTS)
            model.inject_fault(place)
            self.done[f"crashed by {place}"] += 1
        elif pid is not None:
            number = self._random.choice(SIGNALS)
            os.kill(pid, number)
            self.done[f"crashed by {number.name}"] += 1
        # A process that is stopped while nobody asks it for anything may stay so until somebody does.
        await wait(lambda: model.info.restarts > restarts, f"{model} after a crash of {pid}")
        self.done["crashes"] += 1

    async def _structured(self) -> None:
        await self._written_alike({"json_schema": SCHEMA, "seed": 3, "temperature": 0.0, "response_tokens": 60})

    async def _reproducible(self) -> None:
        more: dict[str, Any] = self._random.choice(({"seed": 4}, {"seed": 5, "json_schema": SCHEMA}))
        await self._written_alike({"reproducible": True, "temperature": 0.8, "response_tokens": 20, **more})

    async def _written_alike(self, options: dict[str, Any]) -> None:
        """One of a few prompts, to which the reply is always the same.

        What is drawn at random is so where it is reproducible alone: of a million random numbers one may lie so close
        to the border of two tokens that the last bit of a logit, which depends on who shares the batch, decides. The
        likeliest tokens are never that close here.
        """
        prompt = [*self._random.choice(self._systems), options["seed"] + 97]
        with anyio.fail_after(GUARD_SECONDS):
            reply = await self._model.complete(prompt, queue_wait=True, **options)
        known = self._written.setdefault(tuple(prompt), reply.generated)
        assert reply.generated == known, f"{options}: {reply.generated} and before {known}"
        self.done["reproducible" if "reproducible" in options else "with a schema"] += 1

    async def _embed(self) -> None:
        found = (await self._model.embed(TEXTS)).vectors
        self._vectors = found if self._vectors is None else self._vectors
        assert np.allclose(found, self._vectors, atol=1e-4)
        self.done["embedded"] += 1
