"""Crashes of the actors around a model: the cache and its tiers."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel

import erllama_py as erllama
from helpers.cache import TIER, opened
from helpers.names import wait_registered

PARTS = ["cache", "tier:ram", f"tier:{TIER}"]


class Bomb:
    """A message that no actor can look at."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("told to fail")

    @__class__.setter
    def __class__(self, value: Any) -> None: ...


async def crash(runtime: erllama.Runtime, name: str) -> None:
    """Let an actor fail in `handle`; returns when it is back, and the tier `d` with its rows."""
    names = runtime._names
    before = names.whereis(name)
    assert before is not None
    before.cast(Bomb())
    with anyio.fail_after(20):
        while names.whereis(name) in (before, None):
            await anyio.lowlevel.checkpoint()
    for part in PARTS:
        await wait_registered(names, part)
    await opened(runtime)
