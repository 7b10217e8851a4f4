"""What lives beside a model: when its owner forgets it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from erllama_py.actors import StopTimeout
from erllama_py.model.lodger import Lodger

pytestmark = pytest.mark.anyio


class Guest(Lodger):
    """One of them, without an actor."""

    is_over = False


@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize("left_behind", [None, StopTimeout("guest", 0.01)])
async def test_one_that_hung_is_kept_until_somebody_takes_it_out(left_behind: object, alive: bool) -> None:
    """Its supervisor keeps its name, also where its thread has ended by now: a new one could not begin beside it."""
    model: Any = None
    guest, forgotten = Guest(model), asyncio.Event()
    keeper: Any = SimpleNamespace(
        ended=asyncio.get_running_loop().create_future(),
        child=SimpleNamespace(alive=alive, left_behind=left_behind),
    )
    guest.begun(keeper, forgotten.set)
    keeper.ended.set_result(None)
    await asyncio.sleep(0)
    assert forgotten.is_set() == (left_behind is None and not alive)
