"""The load of a spare process is watched as that of an engine is: one that does not get on is ended and replaced."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest
from helpers.anywhere import BUFFERS, configuration
from helpers.runtime import until

from erllama_py.engine.evidence import EngineDied
from erllama_py.engine.process import child as children
from erllama_py.engine.process import spare as spares
from erllama_py.engine.process.child import Child

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is begun at once, and another one after it."""
    monkeypatch.setattr(spares, "FILL_SECONDS", 0.0)
    monkeypatch.setattr(spares, "REFILL_SECONDS", 0.0)


@asynccontextmanager
async def loading(seconds: float) -> AsyncIterator[tuple[Any, Child]]:
    """A slot whose process is in its load, which takes so long; and that process. None is left."""
    slot: Any = spares.SpareSlot("m")
    slot.fill(configuration("process", load_seconds=seconds), (), BUFFERS)
    try:
        await until(lambda: slot._child is not None and slot._child.progress().doing == "load")
        yield slot, slot._child
    finally:
        slot.close()
        await slot.ended()
        assert psutil.Process().children() == []


def is_replaced(slot: Any, first: Child) -> bool:
    """Whether another one is in its load."""
    return slot._child not in (None, first) and slot._child.progress().doing == "load"


async def test_a_spare_that_hangs_in_its_load_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers, and yet reports no further part of its weights."""
    monkeypatch.setattr(children, "LOAD_SECONDS", 0.1)
    async with loading(3600.0) as (slot, first):
        await until(lambda: is_replaced(slot, first))
        assert first.death is not None
        assert first.death.reason == "watchdog"
        assert slot.pid is None


async def test_a_spare_that_is_stopped_in_its_load_is_replaced() -> None:
    """As one that hangs, and sooner."""
    async with loading(3600.0) as (slot, first):
        os.kill(first.process.pid or 0, signal.SIGSTOP)
        await until(lambda: is_replaced(slot, first))
        assert first.death is not None
        assert first.death.reason == "watchdog"


async def test_each_part_of_a_load_has_its_time() -> None:
    """A load that gets on is a beat for each part; one that is done has no work."""
    async with loading(1.0) as (slot, first):
        beats = set[int]()

        def is_ready() -> bool:
            beats.add(first.progress().beats)
            return slot.pid is not None

        await until(is_ready)
        assert len(beats) > 3
        assert not first.progress().has_work
        assert slot._child is first


async def test_weights_are_not_waited_for_in_a_process_that_has_died() -> None:
    """Right after its start: nobody would tell."""
    one = Child("m", configuration("process"), BUFFERS)
    await one.start()
    os.kill(one.process.pid or 0, signal.SIGKILL)
    await one.process.ended.wait()
    with pytest.raises(EngineDied, match="SIGKILL, in its start"):
        await one.hold_weights(configuration("process"))
    await one.end()
