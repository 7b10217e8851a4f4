"""Models that come with their first request, and go by time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from helpers.demand import MIB, Hands, Loads, config, demanded, stub
from helpers.runtime import until
from helpers.tiny_gguf import tiny_gguf

import erllama_py as erllama
from erllama_py.serve.demand import DoesNotFit

pytestmark = pytest.mark.anyio


async def test_a_model_comes_with_its_first_request() -> None:
    """Before that it is in all lists, and the server is ready."""
    async with demanded(config(stub("a"), stub("b", aliases=["other"]))) as at:
        assert (await at.client.get("/health")).json() == {"status": "ok", "reason": None, "models": {"resting": 2}}
        listed = [one["id"] for one in (await at.client.get("/v1/models")).json()["data"]]
        version = {"anthropic-version": "2023-06-01"}
        messages = [one["id"] for one in (await at.client.get("/v1/models", headers=version)).json()["data"]]
        tags = (await at.client.get("/api/tags")).json()["models"]
        assert listed == messages == ["a", "b", "other"]
        assert [one["name"] for one in tags] == ["a:latest", "b:latest", "other:latest"]
        assert all(len(one["digest"]) == 64 for one in tags)
        assert (await at.client.get("/v1/models/other")).json()["meta"]["n_ctx"] == 2048
        assert (await at.client.get("/api/ps")).json() == {"models": []}
        assert [one.loads for one in at.app.service.states().models] == [0, 0]
        assert (await at.chat("other")).json()["model"] == "other"
        assert (at.state("a").state, at.state("b").state) == ("unloaded", "loaded")
        assert (await at.client.get("/health")).json()["models"] == {"idle": 1, "resting": 1}


async def test_many_wait_for_one_load() -> None:
    """One of them that leaves ends it for nobody; it goes on even if all have left."""
    loads = Loads()
    gate = loads.hold("a")
    async with demanded(config(stub("a")), loads=loads) as at:
        asked = [asyncio.create_task(at.chat("a")) for _ in range(12)]
        await until(lambda: at.state("a").waiting == 12)
        for one in asked[:11]:
            one.cancel()
        await until(lambda: at.state("a").waiting == 1)
        gate.set()
        assert (await asked[11]).status_code == 200
        gate.clear()
        at.app.service.served.unload("a")
        await until(lambda: at.state("a").state == "unloaded")
        alone = asyncio.create_task(at.chat("a"))
        await until(lambda: at.state("a").state == "loading")
        alone.cancel()
        await until(lambda: at.state("a").waiting == 0)
        gate.set()
        await until(lambda: at.state("a").state == "loaded")
    assert loads.begun == ["a", "a"]


async def test_a_load_delays_no_other() -> None:
    """Neither another load nor requests of a model that is there."""
    loads = Loads()
    gate = loads.hold("slow")
    async with demanded(config(stub("slow", 30), stub("a", 30), stub("b", 30)), loads=loads) as at:
        assert (await at.chat("a")).status_code == 200
        waiting = asyncio.create_task(at.chat("slow"))
        await until(lambda: at.state("slow").state == "loading")
        for name in ("a", "b"):
            assert (await at.chat(name)).status_code == 200
        assert at.state("slow").state == "loading"
        gate.set()
        assert (await waiting).status_code == 200


async def test_one_that_waits_for_memory_is_given_up_where_all_have_left() -> None:
    """Nothing is unloaded for nobody."""
    async with demanded(config(stub("a"), stub("b"))) as at:
        lease = await at.app.service.served.lease("a")
        asked = asyncio.create_task(at.chat("b"))
        await until(lambda: at.state("b").state == "waiting")
        asked.cancel()
        await until(lambda: at.state("b").state == "unloaded")
        lease.release()
        assert (at.state("a").state, at.state("b").loads) == ("loaded", 0)


async def test_a_load_that_fails_is_not_tried_at_every_request() -> None:
    """All who wait are told, without what is in the log; after a second it is tried again, then after two."""
    loads, clock = Loads(), Hands()
    gate = loads.hold("a")
    loads.errors["a"] = erllama.NotAGGUF("/models/a.gguf", "it is a web page")
    async with demanded(config(stub("a")), loads=loads, clock=clock) as at:
        asked = [asyncio.create_task(at.chat("a")) for _ in range(3)]
        await until(lambda: at.state("a").waiting == 3)
        gate.set()
        for answer in await asyncio.gather(*asked):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_load_failed")
            assert (answer.headers["retry-after"], "web page" in answer.text) == ("1", False)
        assert (await at.chat("a")).status_code == 503
        assert len(loads.begun) == 1
        told = (await at.client.get("/erllama/models")).json()["models"][0]
        assert (told["state"], told["failed_loads"]) == ("failed", 1)
        assert "it is a web page" in told["problem"]
        assert "/models" not in told["problem"]
        clock.advance(1.0)
        assert (await at.chat("a")).headers["retry-after"] == "2"
        clock.advance(2.0)
        del loads.errors["a"]
        assert (await at.chat("a")).status_code == 200
        assert (at.state("a").problem, len(loads.begun)) == (None, 3)


async def test_an_idle_one_gives_its_memory_back() -> None:
    """After `keep_alive`, counted from the end of its last request; one that is loaded from the start stays."""
    clock = Hands()
    models = [stub("a", 30, keep_alive="1m"), stub("b", 30), stub("c", 30, load="start")]
    async with demanded(config(*models, server={"keep_alive": 300}), clock=clock) as at:
        for name in ("a", "b", "c"):
            assert (await at.chat(name)).status_code == 200
        lease = await at.app.service.served.lease("a")
        clock.advance(100.0)
        assert at.state("a").state == "loaded"
        lease.release()
        assert at.state("a").keep_alive == 60.0
        clock.advance(59.0)
        assert at.state("a").state == "loaded"
        clock.advance(1.0)
        await until(lambda: at.state("a").state == "unloaded")
        assert at.app.service.states().used_bytes == 60 * MIB
        clock.advance(140.0)
        await until(lambda: at.state("b").state == "unloaded")
        clock.advance(1e6)
        assert at.state("c").state == "loaded"
        assert [one.unloads for one in at.app.service.states().models] == [{"idle": 1}, {"idle": 1}, {}]
        assert [one.id for one in at.app.service.runtime.list_models()] == ["c"]


async def test_those_of_the_start_are_awaited() -> None:
    """Until they are there the server is not ready, and requests for them are told to come back."""
    loads = Loads()
    gate = loads.hold("c")
    source = demanded(config(stub("a", 30), stub("c", 30, load="start")), loads=loads)
    entering = asyncio.create_task(source.__aenter__())
    await until(lambda: loads.begun == ["c"])
    assert not entering.done()
    gate.set()
    at = await entering
    assert (at.state("c").state, at.state("a").state) == ("loaded", "unloaded")
    await source.__aexit__(None, None, None)


@pytest.mark.parametrize(("load", "beside"), [("demand", ()), ("start", ("first",))])
async def test_what_never_fits_says_what_would(tmp_path: Path, load: Any, beside: tuple[str, ...]) -> None:
    """Before anything is loaded: the context with which it fits."""
    path = str(tiny_gguf("dense", tmp_path))
    context = {"n_ctx": 65_536, "n_seq_max": 1}
    first = stub("first", 1, load=load)
    large = {"name": "large", "path": path, "load": load, "context_opts": context, "probe": False}
    with pytest.raises(DoesNotFit) as refused:
        async with demanded(config(first, large, room=12)):
            pass
    error = refused.value
    assert (error.model_id, error.beside, error.room) == ("large", beside, (12 - len(beside)) * MIB)
    assert error.n_ctx is not None
    assert f"n_ctx = {error.n_ctx}" in str(error)
    fits = {**large, "context_opts": {**context, "n_ctx": error.n_ctx}}
    async with demanded(config(first, fits, room=12)) as at:
        assert (await at.chat("large")).status_code == 200


async def test_no_context_is_small_enough() -> None:
    """Then it says so."""
    with pytest.raises(DoesNotFit, match="a larger memory_budget_bytes, or a smaller model"):
        async with demanded(config(stub("a", 200))):
            pass


async def test_a_server_that_ends_waits_for_nobody() -> None:
    """Who waits for a model is told; a load is given up."""
    loads = Loads()
    loads.hold("a")
    source = demanded(config(stub("a"), server={"drain_seconds": 0}), loads=loads)
    at = await source.__aenter__()
    asked = asyncio.create_task(at.chat("a"))
    await until(lambda: at.state("a").state == "loading")
    at.app.service.open.hurry()
    answer = await asked
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
    await source.__aexit__(None, None, None)


async def test_metrics_count_loads_and_swaps() -> None:
    """Of each model, loaded or not, and the memory that they take."""
    async with demanded(config(stub("a"), stub("b"))) as at:
        for name in ("a", "b", "a"):
            assert (await at.chat(name)).status_code == 200
        page = (await at.client.get("/metrics")).text.splitlines()
    assert 'erllama_served_model{model="b",state="unloaded"} 1.0' in page
    assert 'erllama_served_model_loads_total{model="a",result="loaded"} 2.0' in page
    assert 'erllama_served_model_unloads_total{model="b",why="memory"} 1.0' in page
    assert "erllama_memory_models_bytes 6.291456e+07" in page


async def test_what_is_known_of_a_file_that_is_not_loaded(tmp_path: Path) -> None:
    """Its size and its template, by the lists and by `/api/show`; nothing is loaded for it."""
    large = {"name": "a", "path": str(tiny_gguf("dense", tmp_path)), "load": "demand", "probe": False}
    async with demanded(config({**large, "context_opts": {"n_ctx": 512, "n_seq_max": 1}})) as at:
        listed = (await at.client.get("/v1/models/a")).json()["meta"]
        told = (await at.client.post("/api/show", json={"model": "a"})).json()
        assert at.state("a").loads == 0
        assert (await at.chat("a")).status_code == 200
        assert listed == (await at.client.get("/v1/models/a")).json()["meta"]
        again = (await at.client.post("/api/show", json={"model": "a"})).json()
    assert told == again
