"""How much memory the models of a server may take together."""

from __future__ import annotations

from functools import partial

import msgspec
import psutil

import erllama_py as erllama
from erllama_py.serve.config import Config
from erllama_py.serve.demand.fitting import misfit, smaller_context
from erllama_py.serve.demand.reading import read_aside

SHARE, OF = 9, 10  # of the free memory: the rest is for the process itself, and for others


class Memory(msgspec.Struct, frozen=True):
    """The budget in bytes, of which some are not for models; `None`: no bound."""

    budget: int | None
    reserved: int


async def settle(runtime: erllama.Runtime, config: Config, free: int | None = None) -> Memory:
    """The budget of a configuration, on a machine with so many `free` bytes before anything is loaded. The runtime is
    open."""
    if not config.is_bounded:
        return Memory(None, 0)
    free = psutil.virtual_memory().available if free is None else free
    tiers = await runtime.cache.tiers()
    reserved = sum(tier.quota_bytes for tier in tiers if tier.kind in ("ram", "ram_file"))
    budget = config.server.memory_budget_bytes
    return Memory(free * SHARE // OF if budget is None else budget, reserved + config.runtime.save_buffer_bytes)


async def check_fits(config: Config, memory: Memory) -> None:
    """Raises `DoesNotFit` where a model of a configuration can never be loaded, with the context that would help."""
    if memory.budget is None or (found := misfit(config.models, memory.budget - memory.reserved)) is None:
        return
    model = next(one for one in config.models if one.name == found.model_id)
    found.n_ctx = await read_aside(partial(smaller_context, model, found.room))
    raise found
