"""Models that operators unload while requests come."""

from __future__ import annotations

import asyncio

import pytest
from helpers.demand import Demanded, Loads, config, demanded, stub
from helpers.runtime import until

from erllama_py.serve.demand import Keeper

pytestmark = pytest.mark.anyio


async def unload(at: Demanded, name: str) -> str:
    """Where the model stands then, by the answer."""
    told = await at.client.post(f"/erllama/models/{name}/unload")
    assert told.status_code == 200, told.text
    return str(told.json()["state"])


async def test_requests_that_overlap_keep_no_model_from_going() -> None:
    """Those that have it end first; those that come wait, and have it again after that, warm."""
    async with demanded(config(stub("a"))) as at:
        served = at.app.service.served
        first, second = await served.lease("a"), await served.lease("a")
        assert await unload(at, "a") == "unloading"
        assert served.try_lease("a") is None
        later = [asyncio.create_task(at.chat("a")) for _ in range(3)]
        await until(lambda: at.state("a").waiting == 3)
        assert (await at.client.get("/api/ps")).json()["models"][0]["name"] == "a:latest"
        first.release()
        assert (at.state("a").open, at.state("a").loads) == (1, 1)
        second.release()
        assert [(await one).status_code for one in later] == [200] * 3
        assert (at.state("a").loads, at.state("a").unloads) == (2, {"asked": 1})
        assert at.state("a").state == "loaded"


async def test_one_that_is_being_loaded_serves_those_that_asked_before() -> None:
    """Then it goes; twice is as good as once, and what is not there stays so."""
    loads = Loads()
    gate = loads.hold("a")
    async with demanded(config(stub("a"), stub("b")), loads=loads) as at:
        asked = asyncio.create_task(at.chat("a"))
        await until(lambda: at.state("a").waiting == 1)
        for _ in range(2):
            assert await unload(at, "a") == "loading"
        assert await unload(at, "b") == "unloaded"
        gate.set()
        assert (await asked).status_code == 200
        await until(lambda: at.state("a").state == "unloaded")
        assert (at.state("a").loads, at.state("a").unloads, at.state("b").loads) == (1, {"asked": 1}, 0)


async def test_one_that_waits_for_an_unload_waits_no_longer_than_a_server_says() -> None:
    """A stream that goes on is not ended for it."""
    async with demanded(config(stub("a"))) as at:
        keeper = at.app.service.served
        assert isinstance(keeper, Keeper)
        lease = await keeper.lease("a")
        await unload(at, "a")
        keeper.wait_seconds = 0.01
        refused = await at.chat("a")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_loading")
        assert (at.state("a").open, at.state("a").state) == (1, "unloading")
        lease.release()


async def test_one_that_an_operator_loads_again_meanwhile_comes_back() -> None:
    """Once it has gone."""
    async with demanded(config(stub("a", pinned=True))) as at:
        lease = await at.app.service.served.lease("a")
        await unload(at, "a")
        loading = asyncio.create_task(at.client.post("/erllama/models/a/load"))
        await until(lambda: at.state("a").waiting == 1)
        lease.release()
        assert (await loading).json()["state"] == "loaded"
        assert (at.state("a").loads, at.state("a").unloads) == (2, {"asked": 1})
