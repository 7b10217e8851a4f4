"""Models on demand as the page shows them: those that rest, that load and that wait, and none of them crashed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers.demand import Loads, config, demanded, stub
from helpers.runtime import until

from erllama_py.serve.page.reading import read
from erllama_py.serve.page.snapshot import ModelNow, snapshot

pytestmark = pytest.mark.anyio


async def shown(at: Any) -> dict[str, ModelNow]:
    """The models of a snapshot, by their ids."""
    return {one.id: one for one in snapshot(await read(at.app.service)).models}


async def test_models_rest_load_and_work() -> None:
    """Each stands where it is; what it does is there once it is loaded, and its aliases always."""
    loads = Loads()
    gate = loads.hold("a")
    async with demanded(config(stub("a"), stub("b", aliases=["other"])), loads=loads) as at:
        models = await shown(at)
        assert [(one.standing.state, one.work) for one in models.values()] == [("unloaded", None)] * 2
        assert models["b"].aliases == ("other",)
        asked = asyncio.create_task(at.chat("a"))
        await until(lambda: at.state("a").state == "loading")
        assert (await shown(at))["a"].standing.waiting == 1
        gate.set()
        await asked
        work = (await shown(at))["a"].work
        assert work is not None
        assert (work.phase, work.requests) == ("idle", 1)
        memory = snapshot(await read(at.app.service)).memory
        assert memory is not None
        assert memory.used_bytes > 0


async def test_a_drill_loads_no_model() -> None:
    """One that is not loaded has nothing to crash."""
    async with demanded(config(stub("a"))) as at:
        answer = await at.client.post("/erllama/models/a/crash", json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_up")
        assert [one.loads for one in at.app.service.states().models] == [0]
