"""The vocabulary of a model whose engine is in a child: read here too, on a thread, from the same file."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import msgspec

from erllama_py.engine.backend import Backend, ModelFile, Vocabulary
from erllama_py.engine.fingerprint import check_unchanged
from erllama_py.engine.making import backend_of
from erllama_py.options.model import ModelConfig, ModelOpts
from erllama_py.stacks import begin_thread

Wanted = Callable[[], bool]
First = Callable[[Wanted], object]


class Reading(NamedTuple):
    """What is under way on the thread, to be waited for on the loop: what comes first, and all of it. Both raise what
    was raised."""

    tried: asyncio.Future[None]
    read: asyncio.Future[None]


class Words:
    """See the module. `files` are those that were inspected: a file that has changed since is not this model's."""

    def __init__(self, model_id: str, config: ModelConfig, local: Backend) -> None:
        self.files: tuple[ModelFile, ...] = ()
        # The stub's is there without a load, which may be told to take long, or to fail.
        self._needs_load = config.backend != "stub"
        opts = ModelOpts(vocab_only=True, use_mmap=config.model_opts.use_mmap)
        self._backend = local
        if self._needs_load:
            self._backend = backend_of(model_id, msgspec.structs.replace(config, model_opts=opts))
        self._model_id = model_id
        self._lock = threading.Lock()
        self._reads = self._closed = False
        self.is_read = False  # whether it was read, and from the files that are named

    def __repr__(self) -> str:
        return f"<Words of {self._model_id!r}>"

    @property
    def vocabulary(self) -> Vocabulary:
        """Once it was read."""
        return self._backend.vocabulary

    def begin(self, first: First | None = None) -> Reading:
        """Begin to read it; `first` is called on the thread before that, with what says whether it is to go on."""
        loop = asyncio.get_running_loop()
        reading = Reading(loop.create_future(), loop.create_future())

        def post(error: BaseException | None, *futures: asyncio.Future[None]) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_settle, error, *futures)

        def read() -> None:
            post(self._read(first, lambda: post(None, reading.tried)), *reading)

        if first is None:
            _settle(None, reading.tried)
        if not self._needs_load:
            _settle(None, *reading)
            return reading
        self._reads = True
        try:
            begin_thread(threading.Thread(target=read, name=f"erllama-words-{self._model_id}", daemon=True))
        except RuntimeError:
            self._reads = False
            raise
        return reading

    def close(self) -> None:
        """Let no call in any more; where it is being read, that ends first."""
        with self._lock:
            self._closed = True
            if self._reads:
                return
        self._backend.close()

    def _read(self, first: First | None, tried: Callable[[], object]) -> BaseException | None:
        error: BaseException | None = None
        try:
            if first is not None:
                first(lambda: not self._closed)
                tried()
            self._backend.load(lambda _done: not self._closed)
            check_unchanged(self.files)
        except BaseException as problem:
            error = problem
        with self._lock:
            self._reads = False
            closed = self._closed
            self.is_read = error is None and not closed
        if closed or error is not None:
            self._backend.close()
        return error


def _settle(error: BaseException | None, *futures: asyncio.Future[None]) -> None:
    for future in futures:
        if future.done():  # cancelled, or told before
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
            future.exception()  # where nobody waits for it any more
