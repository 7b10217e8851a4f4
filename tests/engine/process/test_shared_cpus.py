"""Models in processes of their own: those at work have a part of the CPUs each, idle ones and dead ones none."""

from __future__ import annotations

import os
import signal

import pytest
from helpers.anywhere import configuration, nothing_left, running
from helpers.engine import ends, generate
from helpers.runtime import until

from erllama_py.engine.compute_threads import PROCESS
from erllama_py.engine.cpu_table import choices_of

pytestmark = [pytest.mark.anyio, pytest.mark.either_loop]


def at_work() -> int:
    """Engines that have a seat, of this process and its children."""
    return len(choices_of(PROCESS._table.read()))


async def test_children_have_seats_while_they_work() -> None:
    """They leave them when they have nothing to do, and a killed one is cleared by its parent."""
    slow, slower = (configuration("process", seconds_per_token=seconds) for seconds in (0.002, 0.1))
    with nothing_left():
        async with running(slower) as one, running(slow) as other:
            assert at_work() == 0
            one.engine.submit(generate(1, range(5), max_new_tokens=400))
            await until(lambda: at_work() == 1)
            other.engine.submit(generate(2, range(5), max_new_tokens=20))
            await until(lambda: at_work() == 2)
            await other.until(ends(2))
            await until(lambda: at_work() == 1)
            os.kill(one.engine.pid or 0, signal.SIGKILL)
            await one.engine.ended.wait()
            assert at_work() == 0
