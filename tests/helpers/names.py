"""Waiting for a name to be taken, and to be free."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from erllama_py.actors import ActorRef, Names


async def wait_registered(names: Names, name: str) -> ActorRef[Any]:
    """The actor registered under this name, as soon as there is one."""
    await _wait_until(names, lambda: name in names)
    ref = names.whereis(name)
    assert ref is not None
    return ref


async def wait_free(names: Names, name: str) -> None:
    """Return as soon as no actor has this name."""
    await _wait_until(names, lambda: name not in names)


async def _wait_until(names: Names, holds: Callable[[], bool]) -> None:
    changed = asyncio.Event()
    unsubscribe = names.subscribe(lambda change: changed.set())
    try:
        while not holds():
            changed.clear()
            await changed.wait()
    finally:
        unsubscribe()
