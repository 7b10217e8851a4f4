"""A model for eight requests at a time whose decodes wait for a gate, and tell who took part in them.

With the gate shut a test lets requests arrive together; what the decodes were made of is in `Gated.parts`.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import erllama_py as erllama
from erllama_py.config import ModelConfig
from erllama_py.engine.backend import Backend, BackendFailure, DecodeStatus, Slice
from helpers.crowd import crowded_config
from helpers.runtime import GatedBackend, until

WIDE: dict[str, Any] = {"n_ctx": 4096, "n_seq_max": 8}
POISON = 255  # a token that no decode survives


class Shown(GatedBackend):
    """A stub behind a gate that notes who takes part in each of its decodes, and cannot decode `POISON`."""

    def __init__(self, model_id: str, config: ModelConfig, gate: threading.Event) -> None:
        super().__init__(model_id, config, gate)
        self.parts: list[list[int]] = []

    def decode(self, slices: Sequence[Slice]) -> DecodeStatus:
        if any(POISON in part.tokens for part in slices):
            raise BackendFailure("poisoned")
        status = super().decode(slices)
        if status is DecodeStatus.DONE:
            self.parts.append([part.seq_id for part in slices])
        return status


class Gated:
    """The gate of a model, and the backends that it had."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.backends: list[Shown] = []

    def make(self, model_id: str, config: ModelConfig) -> Backend:
        self.backends.append(Shown(model_id, config, self.gate))
        return self.backends[-1]

    @property
    def parts(self) -> list[list[int]]:
        """Of all decodes of the first one: the sequences."""
        return self.backends[0].parts


@asynccontextmanager
async def gated(
    memory: str = "full", context: dict[str, Any] = WIDE, **more: Any
) -> AsyncIterator[tuple[erllama.Runtime, erllama.Model, Gated]]:
    """A model for eight at a time that decodes nothing until its gate is set."""
    gate = Gated()
    async with erllama.Runtime(backend_factory=gate.make) as runtime:
        yield runtime, await runtime.load_model("m", crowded_config(memory, context_opts=context, **more)), gate
        gate.gate.set()


async def arrived(model: erllama.Model, count: int) -> None:
    """Wait until so many are at work or wait, and the first decode waits for the gate."""
    await until(lambda: model.queue_depth == count and model.phase != "idle")
