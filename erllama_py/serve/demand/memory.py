"""How much memory the models of a server may take together."""

from __future__ import annotations

from functools import partial

import msgspec

import erllama_py as erllama
from erllama_py.serve.config import Config
from erllama_py.serve.demand.fitting import DoesNotFit, misfit, smaller_context
from erllama_py.serve.demand.reading import read_aside

SHARE, OF = 9, 10  # of the free memory: the rest is for the process itself, and for others


class Memory(msgspec.Struct, frozen=True):
    """The budget in bytes, of which some are not for models; `None`: no bound."""

    budget: int | None
    reserved: int


async def settle(runtime: erllama.Runtime, config: Config, free: int) -> Memory:
    """The budget of a configuration, where so many bytes were `free` before anything was loaded. The runtime is
    open."""
    if not config.is_bounded:
        return Memory(None, 0)
    tiers = await runtime.cache.tiers()
    reserved = sum(tier.quota_bytes for tier in tiers if tier.kind in ("ram", "ram_file"))
    return bound(config, free, reserved + config.runtime.save_buffer_bytes)


def bound(config: Config, free: int, reserved: int | None = None) -> Memory:
    """The same where nothing runs yet: what tiers in memory and buffers will take is known from the configuration."""
    if not config.is_bounded:
        return Memory(None, 0)
    budget = config.server.memory_budget_bytes
    reserved = config.reserved_bytes(free) if reserved is None else reserved
    return Memory(free * SHARE // OF if budget is None else budget, reserved)


async def check_fits(config: Config, memory: Memory) -> None:
    """Raises `DoesNotFit` where a model of a configuration can never be loaded, with the context that would help."""
    if (found := await read_aside(partial(misfit_of, config, memory))) is not None:
        raise found


def misfit_of(config: Config, memory: Memory) -> DoesNotFit | None:
    """What `check_fits` raises. It blocks as `smaller_context` does."""
    if memory.budget is None or (found := misfit(config.models, memory.budget - memory.reserved)) is None:
        return None
    model = next(one for one in config.models if one.name == found.model_id)
    found.n_ctx, found.reserved = smaller_context(model, found.room), memory.reserved
    return found
