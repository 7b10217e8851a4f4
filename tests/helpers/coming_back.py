"""A stub model that crashes where its test wants it, and comes back when its test says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import erllama_py as erllama
from erllama_py.engine.backend import DecodeStatus, ModelFacts, Slice
from erllama_py.model.suspects import STRIKES
from erllama_py.options.model import ModelConfig
from helpers.in_step import InStep
from helpers.runtime import STUB, until

WAIT_SECONDS = 20.0  # rather than hang


class Comings:
    """The backends that a model had. Loads after the first wait until `back` is set; `poison` says of a slice whether a
    decode with it fails as a whole. A decode of fewer than `together` is undone: requests that come back one after the
    other are in the next crash together."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.back = threading.Event()
        self.back.set()
        self.made: list[Backend] = []
        self.poison: Callable[[Slice], bool] = lambda part: False
        self.together = 1

    def make(self, model_id: str, config: ModelConfig) -> Backend:
        self.made.append(Backend(model_id, config, self, first=not self.made))
        return self.made[-1]

    def crash_twice(self, said: int, then: Callable[[Slice], bool] = lambda part: False) -> None:
        """Have two decodes of two requests fail that say this token, so that both are suspected; `then` is the poison
        after that."""
        crashes = list[int]()

        def poison(part: Slice) -> bool:
            if said not in part.tokens:
                return False
            crashes.append(part.seq_id)
            if len(crashes) == STRIKES:
                self.poison, self.together = then, 1
            return True

        self.together, self.poison = 2, poison


class Backend(InStep):
    """One of them. `beside` are the sequences of each decode that was begun."""

    def __init__(self, model_id: str, config: ModelConfig, comings: Comings, *, first: bool) -> None:
        super().__init__(model_id, config, comings.loop)
        self._comings, self._first = comings, first
        self.beside: list[list[int]] = []

    def load(self, progress: Callable[[float], bool]) -> ModelFacts:
        assert self._first or self._comings.back.wait(WAIT_SECONDS)
        return super().load(progress)

    def decode(self, slices: Sequence[Slice]) -> DecodeStatus:
        if len(slices) < self._comings.together:
            self.waits()
            return DecodeStatus.ABORTED
        self.beside.append([part.seq_id for part in slices])
        if any(map(self._comings.poison, slices)):
            raise Poisoned("a slice was poisonous")
        return super().decode(slices)


class Poisoned(Exception):
    """No failure of a backend's that is tried part by part: the engine ends."""


@asynccontextmanager
async def coming_back(**config: Any) -> AsyncIterator[tuple[erllama.Runtime, erllama.Model, Comings]]:
    """A runtime with a model `m`, and what becomes of it; its tokens take a millisecond unless `config` says so."""
    comings = Comings()
    given: Any = {**STUB, "stub": {"seconds_per_token": 0.001}, **config}
    async with erllama.Runtime(backend_factory=comings.make) as runtime:
        try:
            yield runtime, await runtime.load_model("m", given), comings
        finally:
            comings.back.set()


async def crash(model: erllama.Model, comings: Comings, where: Any = "actor") -> None:
    """Crash it, and keep it from coming back until `comings.back` is set."""
    comings.back.clear()
    restarts = model.info.restarts
    model.inject_fault(where)
    await until(lambda: model.info.restarts > restarts)
