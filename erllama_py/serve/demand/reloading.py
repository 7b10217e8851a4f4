"""A changed configuration, applied to a server that runs: `Reloading`.

    read → compare, files of models too → settle sizes → start new tiers → check that all fits → apply

All that can go wrong is done before anything is applied: a file with an error changes nothing, tiers that were started
for it are stopped again. No stream is ended:
models that go, or come back as another one, do so once nobody has them. Reloads are done one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial

import msgspec

import erllama_py as erllama
from erllama_py.memory import available_memory
from erllama_py.serve.config import Config, ConfigError, ServedModel, check_allowed, is_replaced, sized
from erllama_py.serve.core.logs import NAME
from erllama_py.serve.core.served import Changes, being_loaded
from erllama_py.serve.demand.changes import changes, merged
from erllama_py.serve.demand.keeper import Keeper
from erllama_py.serve.demand.memory import check_fits, settle
from erllama_py.serve.demand.reading import read_aside
from erllama_py.watch.log import get_logger


class Reloading:
    """See the module. `reread` reads the configuration again, in a thread: it may block. `apply` makes all of one hold
    that is not about the memory of models. So many bytes were `free` at the start."""

    def __init__(
        self, runtime: erllama.Runtime, keeper: Keeper, config: Config, free: int, reread: Callable[[], Config],
        apply: Callable[[Config], object],
    ) -> None:  # fmt: skip
        self.config, self._free = config, free
        self._runtime, self._keeper, self._reread, self._apply = runtime, keeper, reread, apply
        self._one_by_one = asyncio.Lock()

    async def __call__(self) -> Changes:
        """Read the configuration again, and apply what has changed in it.

        Raises `ConfigError`, `InvalidOption`, `DoesNotFit`, what `inspect_model` and `start_tier` raise, and `Problem`
        before the models that are to be there from the start are loaded.
        """
        async with self._one_by_one:
            if not self._keeper.is_ready:
                raise being_loaded()
            try:
                found = await self._reload()
            except erllama.ErllamaError as error:
                get_logger(NAME).error("a changed configuration is not taken", problem=str(error))
                raise
        told = {name: list(places) for name, places in msgspec.structs.asdict(found).items() if places}
        get_logger(NAME).info("the configuration was read again", **told)
        return found

    async def _reload(self) -> Changes:
        read = await read_aside(self._reread)
        check_changed(self.config, read)
        before = self._keeper.models()
        altered = await read_aside(lambda: [name for name, one in before.items() if is_replaced(one)])
        found, new = changes(self.config, read, altered), merged(self.config, read)
        freed = self._keeper.taken({*found.removed, *found.replaced})
        stays = {name: one for name, one in before.items() if name not in (*found.removed, *found.replaced)}
        new = await read_aside(partial(_sized, new, stays, freed))
        async with AsyncExitStack() as undo:
            for name in new.tiers.keys() - self.config.tiers.keys():
                undo.push_async_callback(self._stop_tier, name)  # it may be there although its start is cancelled
                await self._runtime.start_tier(name, new.tiers[name])
            memory = await settle(self._runtime, new, self._free)  # new tiers in memory among them
            await check_fits(new, memory)
            undo.pop_all()
        # In one turn of the loop: no request sees a half of it.
        self.config = new
        self._apply(new)
        self._keeper.budget, self._keeper.reserved = memory.budget, memory.reserved
        self._keeper.wait_seconds = new.server.wait_seconds
        self._keeper.configure(new.models, new.server.keep_alive, found.replaced)
        return found

    async def _stop_tier(self, name: str) -> None:
        with suppress(erllama.TierNotFound):
            await self._runtime.stop_tier(name)


def check_changed(old: Config, new: Config) -> None:
    """Raises `ConfigError` where a configuration cannot take the place of another one; `InvalidOption` for keys that
    name models which are not there."""
    check_allowed(new)
    for name, tier in new.tiers.items():
        before = old.tiers.get(name)
        if before is not None and before.kind != tier.kind:
            problem = f"a tier stays of its kind, {before.kind!r}, while the server runs: give the new one another name"
            raise ConfigError(str(new.file or ""), f"tiers.{name}.kind", problem)


def _sized(new: Config, stays: Mapping[str, ServedModel], freed: int) -> Config:
    """The configuration with every size settled. Models that stay have the sizes that they have; the files of others
    are looked at, which may have what is free, and what those leave that go. Raises as `inspect_model` does."""
    models = [_as_it_was(one, stays[one.name]) if one.name in stays else one for one in new.models]
    opened = [one for one in models if one.name not in stays or (new.is_bounded and one.file is None)]
    found = sized(msgspec.structs.replace(new, models=tuple(opened)), available=available_memory() + freed)
    settled = {one.model.name: one.model for one in found}
    return msgspec.structs.replace(new, models=tuple(settled.get(one.name, one) for one in models))


def _as_it_was(now: ServedModel, before: ServedModel) -> ServedModel:
    return msgspec.structs.replace(
        now, options=before.options, given=before.given, file=before.file, context_bytes=before.context_bytes,
        stamp=before.stamp,
    )  # fmt: skip
