"""A model for eight requests at a time whose decodes wait for a gate, and record which requests took part in them.

With the gate shut a test lets requests arrive together; what the decodes were made of is in `Gated.parts`.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import erllama_py as erllama
from erllama_py.engine.backend import Backend, BackendFailure, DecodeStatus, Slice
from erllama_py.engine.banned import banned
from erllama_py.engine.stub import StubSampler
from erllama_py.errors import SamplerFailed
from erllama_py.options.model import ModelConfig
from erllama_py.options.sampling import Sampling
from helpers.crowd import crowded_config
from helpers.runtime import GatedBackend, until

WIDE: dict[str, Any] = {"n_ctx": 4096, "n_seq_max": 8}
POISON = 255  # a token that no decode survives
UNLUCKY, DRAWS = 666, 4  # the seed of a sampler that fails after so many draws


class Shown(GatedBackend):
    """A stub with a gate that notes what its decodes were made of, and fails where its test wants it to."""

    def __init__(self, model_id: str, config: ModelConfig, gated: Gated) -> None:
        super().__init__(model_id, config, gated.gate)
        self.parts: list[list[int]] = []
        self.computed = 0
        self._gated = gated

    def decode(self, slices: Sequence[Slice]) -> DecodeStatus:
        if any(POISON in part.tokens or self._gated.fails(part) for part in slices):
            raise BackendFailure("poisoned")
        status = super().decode(slices)
        if status is DecodeStatus.DONE:
            self.parts.append([part.seq_id for part in slices])
            self.computed += sum(len(part.tokens) for part in slices)
            if len(self.parts) == self._gated.shut_after:
                self._gated.gate.clear()
        return status

    def sampler(self, sampling: Sampling, history: Sequence[int]) -> StubSampler:
        sampler = super().sampler(sampling, history)
        if sampling.seed != UNLUCKY:
            return sampler
        return Unlucky(self._values, self.vocabulary.n_vocab, sampling, banned(sampling, self.vocabulary), None)


class Unlucky(StubSampler):
    """Fails in the middle of a reply."""

    def _draw(self, value: int) -> int:
        if self._drawn == DRAWS:
            raise SamplerFailed("the draw failed")
        return super()._draw(value)


class Gated:
    """The gate of a model, and the backends that it had. It shuts by itself after `shut_after` decodes.

    `fails` says with which slices a decode fails.
    """

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.shut_after: int | None = None
        self.fails: Callable[[Slice], bool] = lambda part: False
        self.backends: list[Shown] = []

    def make(self, model_id: str, config: ModelConfig) -> Backend:
        self.backends.append(Shown(model_id, config, self))
        return self.backends[-1]

    @property
    def parts(self) -> list[list[int]]:
        """Of all decodes of the first one: the sequences."""
        return self.backends[0].parts

    @property
    def computed(self) -> int:
        """Tokens in all decodes of the first one."""
        return self.backends[0].computed

    async def shut(self, decodes: int) -> None:
        """Let so many more decodes be done, and shut the gate."""
        self.shut_after = len(self.parts) + decodes
        self.gate.set()
        await until(lambda: not self.gate.is_set())


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
