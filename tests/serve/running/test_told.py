"""What signals mean to a server."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest
from helpers.runtime import until

from erllama_py.serve.running.told import Told

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """As a terminal has it, also where the tests were started to outlive one."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("reloads", "heard"), [(True, (True, False)), (False, (False, True))])
async def test_sighup_ends_only_what_has_nothing_to_read_again(reloads: bool, heard: tuple[bool, bool]) -> None:
    """Its terminal was closed: it would go on with all its memory, where nobody sees it."""
    told = Told()
    with told.listening(reloads=reloads):
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: told.to_reload.is_set() or told.to_end.is_set())
    assert (told.to_reload.is_set(), told.to_end.is_set()) == heard


async def test_sighup_ends_nothing_that_was_started_to_outlive_its_terminal() -> None:
    """`nohup` has the signal ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    told = Told()
    with told.listening(reloads=False):
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert not told.to_end.is_set()
