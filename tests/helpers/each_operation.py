"""A stub whose engine ends at operations that were chosen by their numbers, over all lives of its model.

An operation is a call of the backend or of a sampler, and each hand-over of outcomes, before and after it. Where what
had not been handed over is `lost` the engine ends as one in a process does, else as one on a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from erllama_py.engine.backend import Backend, DecodeStatus, ModelFacts, RestoreStatus, Slice
from erllama_py.engine.stub import StubSampler
from erllama_py.engine.stub_script import Script, ScriptedBackend
from erllama_py.engine.worker import Worker
from erllama_py.options.model import ModelConfig
from erllama_py.options.sampling import Sampling

Take = Callable[[int], memoryview | None]


class Ended(Exception):
    """No failure of a backend's that one request could pay for: the engine ends."""


class Operations:
    """See the module. `count` have begun, `decoded` tokens are computed, `crashes` have been."""

    def __init__(self, patch: pytest.MonkeyPatch, *at: int, lost: bool = False, script: Script | None = None) -> None:
        self.count = self.decoded = self.crashes = 0
        self._at, self._lost, self._script = at, lost, Script() if script is None else script
        self._has_ended = False
        flush = Worker.flush

        def handed_over(worker: Worker) -> None:
            if self._has_ended and self._lost:
                worker._outcomes.clear()
            if self._has_ended or not worker._outcomes:
                flush(worker)
                return
            self.next()
            flush(worker)
            self.next()

        patch.setattr(Worker, "flush", handed_over)

    def next(self) -> None:
        """An operation begins, unless the engine has ended and tidies up. Raises `Ended`."""
        if self._has_ended:
            return
        self.count += 1
        if self.count in self._at:
            self._has_ended = True
            self.crashes += 1
            raise Ended(f"at operation {self.count}")

    def begin(self) -> None:
        """Another engine begins."""
        self._has_ended = False

    def make(self, model_id: str, config: ModelConfig) -> Backend:
        """The backend factory of a runtime."""
        return _Counted(model_id, config, self._script, self)


class _Counted(ScriptedBackend):
    def __init__(self, model_id: str, config: ModelConfig, script: Script, operations: Operations) -> None:
        super().__init__(model_id, config, script)
        self._operations = operations

    def load(self, progress: Callable[[float], bool]) -> ModelFacts:
        facts = super().load(progress)
        self._operations.begin()
        return facts

    def decode(self, slices: Sequence[Slice]) -> DecodeStatus:
        self._operations.next()
        status = super().decode(slices)
        if status is DecodeStatus.DONE:
            self._operations.decoded += sum(len(part.tokens) for part in slices)
        self._operations.next()
        return status

    def remove(self, seq_id: int, start: int, end: int) -> bool:
        self._operations.next()
        return super().remove(seq_id, start, end)

    def share(self, source: int, seq_id: int, length: int) -> bool:
        self._operations.next()
        return super().share(source, seq_id, length)

    def capture(self, seq_id: int, start: int, end: int, take: Take) -> memoryview | None:
        self._operations.next()
        return super().capture(seq_id, start, end, take)

    def restore(self, seq_id: int, start: int, end: int, payload: memoryview) -> RestoreStatus:
        self._operations.next()
        return super().restore(seq_id, start, end, payload)

    def sampler(self, sampling: Sampling, history: Sequence[int]) -> StubSampler:
        self._operations.next()
        sampler: Any = super().sampler(sampling, history)
        draw, forced = sampler._draw, sampler.forced

        def drawn(value: int) -> Any:
            self._operations.next()
            return draw(value)

        def forced_ones() -> Any:
            self._operations.next()
            return forced()

        sampler._draw, sampler.forced = drawn, forced_ones
        return sampler  # type: ignore[no-any-return]  # it is the stub's
