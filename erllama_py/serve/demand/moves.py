"""Loads and unloads under way, each in a task of its own: no load waits for another.

They change what a holding says of where its model is, and tell the keeper, which plans again. Models are unloaded by
`Model.unload`, which saves what they hold: what comes back is warm. Before a load its file is looked at: where that was
replaced, what it takes is another amount, and nothing is loaded until the keeper has planned with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import erllama_py as erllama
from erllama_py.serve.config import ServedModel, refreshed
from erllama_py.serve.core.logs import NAME
from erllama_py.serve.demand.backoff import pause
from erllama_py.serve.demand.fitting import explained
from erllama_py.serve.demand.holding import Failure, Holding, Stay
from erllama_py.serve.demand.plan import Why
from erllama_py.serve.demand.reading import read_aside
from erllama_py.watch.log import get_logger

Load = Callable[[erllama.Runtime, ServedModel], Awaitable[object]]
# For what it has handed over to be stored: it may be back within milliseconds, and looks for that.
STORE_SECONDS = 10.0
STUCK_SECONDS = 60.0  # until an engine that did not end is looked at again


async def load_model(runtime: erllama.Runtime, model: ServedModel) -> None:
    """Load a model as its configuration says."""
    await runtime.load_model(model.name, model.config)


class Moves:
    """See the module. `now` is the keeper's clock, `ended` is called with a holding whose load or unload has ended, or
    whose file is another one; `make_room` has models unloaded where so many bytes are lacking, if that would help."""

    def __init__(
        self, runtime: erllama.Runtime, now: Callable[[], float], ended: Callable[[Holding], object],
        make_room: Callable[[int], bool],
    ) -> None:  # fmt: skip
        self._runtime, self._now, self._ended, self._make_room = runtime, now, ended, make_room
        self._loading, self._unloading = set[asyncio.Task[None]](), set[asyncio.Task[None]]()
        self._closing = asyncio.Event()

    def load(self, one: Holding, how: Load, *, quiet: bool = False) -> None:
        """Begin to load a model. A `quiet` one that fails is not in the log: whoever waits for it says so."""
        one.where = "loading"
        self._begin(self._loading, self._load(one, how, quiet))

    def unload(self, one: Holding, why: Why) -> None:
        """Begin to unload a model."""
        one.where = "leaving"
        one.unloads[why] += 1
        get_logger(NAME).info("a model goes", model=one.name, why=why)
        self._begin(self._unloading, self._unload(one))

    async def close(self) -> None:
        """Give loads up, and wait for what ends by itself; not for engines that do not end."""
        self._closing.set()
        for task in self._loading:
            task.cancel()
        await asyncio.gather(*self._loading, *self._unloading, return_exceptions=True)

    def _begin(self, tasks: set[asyncio.Task[None]], work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _load(self, one: Holding, how: Load, quiet: bool) -> None:
        try:
            found = one.model if one.model.file is None else await read_aside(partial(refreshed, one.model))
            if found is not one.model:
                one.find(found)
                one.where = "out"
                self._ended(one)
                return
            await self._load_with_room(one.model, how)
            one.info = self._runtime.model(one.name).info
        except Exception as error:  # whatever a load runs into
            times = one.failure.times + 1 if one.failure is not None else 1
            one.where, one.failure = "out", Failure(error, times, self._now() + pause(times))
            one.failed_loads += 1
            if not quiet:
                get_logger(NAME).error("a model could not be loaded", model=one.name, times=times, problem=str(error))
        except BaseException:
            one.where = "out"
            raise
        else:
            one.where, one.failure = "in", None
            one.loads += 1
            one.loaded_at = one.last_used = one.idle_since = self._now()
        one.wanted_since = None
        self._ended(one)

    async def _load_with_room(self, model: ServedModel, how: Load) -> None:
        """Load a model. Where the machine has less memory than the budget says, others go that nobody has. Raises
        `InsufficientMemory`, with what would help, where that is not enough, and what loads raise."""
        while True:
            try:
                await how(self._runtime, model)
                return
            except erllama.InsufficientMemory as error:
                if not self._make_room(max(1, error.needed - error.available)):
                    raise await read_aside(partial(explained, model, error)) from error
            await asyncio.wait(self._unloading, return_when=asyncio.FIRST_COMPLETED)

    async def _unload(self, one: Holding) -> None:
        while not await self._has_gone(one):
            with suppress(TimeoutError):
                async with asyncio.timeout(STUCK_SECONDS):
                    await self._closing.wait()
                return  # the runtime gives its engine up, with all that it holds
        one.where, one.asked, one.leaves = "out", Stay(None), False
        self._ended(one)

    async def _has_gone(self, one: Holding) -> bool:
        """Unload a model; whether its memory is free."""
        try:
            with suppress(erllama.ModelNotLoaded):
                await self._runtime.model(one.name).unload()
            with suppress(TimeoutError):
                async with asyncio.timeout(STORE_SECONDS):
                    await self._runtime.cache.flush()
        except erllama.ModelStuck as error:
            get_logger(NAME).error("a model does not let go of its memory", model=one.name, problem=str(error))
            return False
        except erllama.ErllamaError:  # the runtime has ended, and everything with it
            pass
        except Exception as error:  # else it would be on its way for good, and whoever waits for its memory with it
            get_logger(NAME).error("a model was not unloaded as it should be", model=one.name, exc_info=error)
        return True
