"""A second process of a model, with its weights and without a context: what comes back after a crash begins there.

The vocabulary that was read here is kept for that too. One slot for a model, over all of its restarts. It is filled
when the model is up, emptied when its process has died, and filled again after that. Nobody waits for it: where none is
ready, the weights are loaded as without one.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import msgspec

from erllama_py.buffers import BufferPool
from erllama_py.engine.backend import ModelFile
from erllama_py.engine.process.child import Child
from erllama_py.engine.process.words import Words
from erllama_py.options.model import ModelConfig
from erllama_py.watch.log import get_logger

# The model itself has the CPUs first: it has just come up, and has requests that wait for it.
FILL_SECONDS = 2.0
REFILL_SECONDS = 10.0  # after one that has failed, or was killed: memory may be short


class Spare(NamedTuple):
    """One that stands ready. `number` is of its weights, see `StartEngine.weights_of`."""

    child: Child
    number: int
    files: tuple[ModelFile, ...]  # as they were when the weights were read


class SpareSlot:
    """See the module. Everything is called on the event loop."""

    def __init__(self, model_id: str) -> None:
        self._model_id = model_id
        self._task: asyncio.Task[None] | None = None
        self._child: Child | None = None  # being filled, or ready
        self._ready: Spare | None = None
        self._words: Words | None = None  # of the engine that has ended last
        self._closed = False

    def __repr__(self) -> str:
        return f"<SpareSlot of {self._model_id!r}, {self._ready or 'none ready'}>"

    @property
    def pid(self) -> int | None:
        """Of the one that stands ready."""
        return None if self._ready is None else self._ready.child.process.pid

    def fill(self, config: ModelConfig, files: tuple[ModelFile, ...], buffers: BufferPool) -> None:
        """Begin one for a model that is up, where there is none."""
        if not self._closed and (self._task is None or self._task.done()):
            self._task = asyncio.ensure_future(self._keep(config, files, buffers))

    def take(self, files: tuple[ModelFile, ...]) -> Spare | None:
        """The one that stands ready, for good; None where there is none, or the files have changed since."""
        spare, task = self._ready, self._task
        if spare is None or task is None or spare.child.death is not None:
            return None
        if spare.files != files:
            _end(task)
            return None
        self._ready = self._child = self._task = None
        _end(task)
        return spare

    def keep_words(self, words: Words) -> bool:
        """Keep the vocabulary of an engine that has ended, if there is to be another engine."""
        if self._closed or not words.is_read:
            return False
        if self._words is not None:
            self._words.close()
        self._words = words
        return True

    def take_words(self, files: tuple[ModelFile, ...]) -> Words | None:
        """The vocabulary that was kept, for good; None where there is none, or the files have changed since."""
        words = self._words
        if words is None or words.files != files:
            return None
        self._words = None
        return words

    def close(self) -> None:
        """End it; there will be no other."""
        self._closed = True
        if self._words is not None:
            self._words.close()
            self._words = None
        if self._task is not None:
            _end(self._task)

    async def ended(self) -> None:
        """Wait until nothing is left of what `close` has ended."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def _keep(self, config: ModelConfig, files: tuple[ModelFile, ...], buffers: BufferPool) -> None:
        await asyncio.sleep(FILL_SECONDS)
        while True:
            child, problem = None, ""
            try:
                child = self._child = Child(self._model_id, config, buffers)
                await child.start()
                self._ready = Spare(child, await child.hold_weights(config), files)
                await child.process.ended.wait()
            except Exception as error:  # also where there is no descriptor left for one
                problem = str(error)
            finally:
                if child is not None:
                    await self._drop(child)
            if child is not None and child.death is not None:
                problem = problem or child.death.problem
            get_logger(model=self._model_id).warning("the spare process has ended", problem=problem)
            await asyncio.sleep(REFILL_SECONDS)

    async def _drop(self, child: Child) -> None:
        """End what was not taken."""
        if self._child is child:
            self._child = self._ready = None
            child.process.kill("killed", "it is not needed any more")
            await child.end()


def _end(task: asyncio.Task[None]) -> None:
    """Once: a second time would break off what it does at its end."""
    if not task.cancelling():
        task.cancel()


def over_weights(config: ModelConfig) -> ModelConfig:
    """The configuration of an engine over weights that are there. The stub's take no time then."""
    return msgspec.structs.replace(config, stub=msgspec.structs.replace(config.stub, load_seconds=0.0))
