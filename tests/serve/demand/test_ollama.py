"""`keep_alive` in requests, and what `/api/ps` says, as Ollama's clients know them; loads and unloads by operators."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from helpers.demand import Demanded, Hands, Loads, config, demanded, stub
from helpers.runtime import until

import erllama_py as erllama

pytestmark = pytest.mark.anyio


async def ask(at: Demanded, path: str = "generate", **given: Any) -> Any:
    """The answer, which is no stream."""
    answer = await at.client.post(f"/api/{path}", json={"model": "a", "stream": False, **given})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def loaded(at: Demanded) -> list[str]:
    """The models that are loaded, as `/api/ps` says."""
    return [one["name"] for one in (await at.client.get("/api/ps")).json()["models"]]


@pytest.mark.parametrize("path", ["generate", "chat"])
async def test_without_text_a_model_is_loaded_and_unloaded(path: str) -> None:
    """Twice is as good as once."""
    async with demanded(config(stub("a"))) as at:
        assert (await ask(at, path))["done_reason"] == "load"
        assert await loaded(at) == ["a:latest"]
        for _ in range(2):
            assert (await ask(at, path, keep_alive=0))["done_reason"] == "unload"
        await until(lambda: at.state("a").state == "unloaded")
        assert await loaded(at) == []
        assert at.state("a").unloads == {"asked": 1}


@pytest.mark.parametrize(
    ("keep_alive", "seconds"), [("10m", 600.0), (60, 60.0), ("60", 60.0), (-1, None), ("-1m", None), (0, 0.0)]
)
async def test_a_request_says_how_long_its_model_stays(keep_alive: Any, seconds: float | None) -> None:
    """From its end on, until it is unloaded or another request says otherwise."""
    clock = Hands()
    async with demanded(config(stub("a")), clock=clock) as at:
        await ask(at, prompt="hello", keep_alive=keep_alive, options={"num_predict": 2})
        if seconds == 0.0:
            await until(lambda: at.state("a").state == "unloaded")
            return
        assert at.state("a").keep_alive == seconds
        told = (await at.client.get("/api/ps")).json()["models"][0]["expires_at"]
        expires = at.state("a").expires_at
        assert expires is None or abs(datetime.fromisoformat(told).timestamp() - expires) < 1.0
        assert seconds is not None or told.startswith("2200")
        await ask(at, prompt="hello", options={"num_predict": 2})
        assert at.state("a").keep_alive == seconds
        clock.advance(3600.0)
        assert (at.state("a").state == "loaded") == (seconds is None)


async def test_a_wrong_time_is_refused() -> None:
    """Before anything is loaded."""
    async with demanded(config(stub("a"))) as at:
        for wrong in ("soon", "5 minutes", "1e9s"):
            answer = await at.client.post("/api/generate", json={"model": "a", "keep_alive": wrong})
            assert (answer.status_code, "keep_alive" in answer.text) == (400, True)
        assert at.state("a").loads == 0


async def test_a_pinned_model_heeds_no_request() -> None:
    """It stays; an operator may unload it all the same."""
    async with demanded(config(stub("a", pinned=True))) as at:
        assert (await ask(at, prompt="hello", keep_alive=0, options={"num_predict": 2}))["done"]
        assert (await ask(at, keep_alive=0))["done_reason"] == "load"
        assert await loaded(at) == ["a:latest"]
        told = await at.client.post("/erllama/models/a/unload")
        assert told.json()["state"] in ("unloading", "unloaded")
        await until(lambda: at.state("a").state == "unloaded")


async def test_operators_load_and_unload() -> None:
    """And see why a load fails."""
    loads = Loads()
    async with demanded(config(stub("a", aliases=["x"]), stub("b")), loads=loads) as at:
        assert (await at.client.post("/erllama/models/x/load")).json()["state"] == "loaded"
        lease = await at.app.service.served.lease("a")
        assert (await at.client.post("/erllama/models/a/unload")).json()["state"] == "unloading"
        lease.release()
        await until(lambda: at.state("a").state == "unloaded")
        assert (await at.client.post("/erllama/models/no/load")).status_code == 404
        loads.errors["b"] = erllama.NotAGGUF("/models/b.gguf", "it is a web page")
        failed = await at.client.post("/erllama/models/b/load")
        assert failed.status_code == 503
        assert "it is a web page" in failed.text
        assert "/models/" not in failed.text


async def test_what_is_known_of_a_model_that_is_not_loaded() -> None:
    """A stub has no file: it is loaded to be asked."""
    async with demanded(config(stub("a"))) as at:
        told = (await at.client.post("/api/show", json={"model": "a"})).json()
        assert told["capabilities"] == ["completion", "tools"]
        assert at.state("a").loads == 1
