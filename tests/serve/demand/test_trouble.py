"""What goes wrong with models on demand is over one day: clients that are cancelled, engines that hang, crashes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from helpers.demand import Hands, Loads, config, demanded, stub
from helpers.runtime import until

import erllama_py as erllama
from erllama_py import tree
from erllama_py.serve.demand import reading
from erllama_py.serve.demand.holding import Holding
from erllama_py.serve.demand.moves import Moves
from erllama_py.serve.demand.plan import plan

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("turns", range(8))
async def test_a_request_that_is_cancelled_while_it_gets_its_model_keeps_nothing(turns: int) -> None:
    """As by a host around the application, so many turns of the loop after the model is given to it."""
    loads = Loads()
    gate = loads.hold("a")
    async with demanded(config(stub("a")), loads=loads) as at:
        asked = asyncio.create_task(at.chat("a"))
        await until(lambda: at.state("a").waiting == 1)
        gate.set()
        await until(lambda: at.state("a").open == 1)
        for _ in range(turns):
            await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await until(lambda: at.state("a").open == 0)


async def test_requests_that_wait_together_plan_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop is not held by a thousand of them that come, leave and end together."""
    plans = 0

    def counting(*given: Any) -> Any:
        nonlocal plans
        plans += 1
        return plan(*given)

    monkeypatch.setattr("erllama_py.serve.demand.keeper.plan", counting)
    loads = Loads()
    gate = loads.hold("a")
    async with demanded(config(stub("a")), loads=loads) as at:
        served = at.app.service.served
        asked = [asyncio.create_task(served.lease("a")) for _ in range(1000)]
        await until(lambda: at.state("a").waiting == 1000)
        for one in asked[500:]:
            one.cancel()
        await until(lambda: at.state("a").waiting == 500)
        gate.set()
        for lease in await asyncio.gather(*asked[:500]):
            lease.release()
        assert (at.state("a").open, at.state("a").loads) == (0, 1)
    assert plans < 10


@pytest.mark.parametrize("load", ["start", "demand"])
async def test_a_model_that_was_unloaded_in_the_runtime_comes_back(load: str) -> None:
    """By a host of the application, past the server: a request finds it gone and fails, the next one loads it."""
    async with demanded(config(stub("a", load=load, pinned=load == "start"))) as at:
        assert (await at.chat("a")).status_code == 200
        await at.app.service.runtime.model("a").unload()
        assert (await at.chat("a")).status_code == 404
        assert (await at.chat("a")).status_code == 200
        assert (at.state("a").loads, dict(at.state("a").unloads)) == (2, {"asked": 1})


class Stuck:
    """A runtime whose model does not end."""

    def __init__(self, error: Exception) -> None:
        self.error, self.tried = error, asyncio.Event()
        self.cache = self

    def model(self, name: str) -> Any:
        return self

    async def flush(self) -> None:
        raise AssertionError("there is nothing to store")

    async def unload(self) -> None:
        self.tried.set()
        raise self.error


async def test_the_end_waits_for_no_engine_that_hangs() -> None:
    """It is looked at again every minute; the server that ends meanwhile does."""
    runtime: Any = Stuck(erllama.ModelStuck("a"))
    one = Holding(config(stub("a")).models[0], None)
    moves = Moves(runtime, lambda: 0.0, lambda _: pytest.fail("it has not gone"), lambda _: False)
    moves.unload(one, "asked")
    await runtime.tried.wait()
    async with asyncio.timeout(5):
        await moves.close()
    assert one.where == "leaving"


async def test_an_unload_that_fails_is_over_all_the_same() -> None:
    """Whoever waits for its memory would wait for good."""
    runtime: Any = Stuck(OSError("the disk is gone"))
    one, ended = Holding(config(stub("a")).models[0], None), asyncio.Event()
    moves = Moves(runtime, lambda: 0.0, lambda _: ended.set(), lambda _: False)
    moves.unload(one, "asked")
    await ended.wait()
    assert one.where == "out"


async def test_one_that_crashed_too_often_is_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a minute, however many requests come: its supervisor has given it up, which is not for ever."""
    monkeypatch.setattr(tree, "MODEL_LIMITS", erllama.RestartLimits(intensity=0, period=60.0))
    clock = Hands()
    async with demanded(config(stub("a"), stub("b", 40)), clock=clock) as at:
        assert (await at.chat("a")).status_code == 200
        lease = await at.app.service.served.lease("a")
        at.app.service.runtime.model("a").inject_fault("actor")
        await until(lambda: at.state("a").phase == "failed")
        refused = await at.chat("a")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_crashed")
        waiting = asyncio.create_task(at.chat("a"))
        await until(lambda: at.state("a").waiting == 1)
        lease.release()
        refused = await waiting
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_crashed")
        assert refused.headers["retry-after"] == "60"
        assert (at.state("a").state, at.state("a").unloads) == ("failed", {"failed": 1})
        assert (await at.client.get("/health")).json()["status"] == "ok"
        clock.advance(60.0)
        assert (await at.chat("a")).status_code == 200


@pytest.mark.parametrize("when", ["start", "demand"])
async def test_a_load_that_is_asked_for_brings_back_a_model_that_crashed_too_often(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers when the model is there: not at once, for one that is loaded and will never answer."""
    monkeypatch.setattr(tree, "MODEL_LIMITS", erllama.RestartLimits(intensity=0, period=60.0))
    async with demanded(config(stub("a", load=when))) as at:
        assert (await at.chat("a")).status_code == 200
        at.app.service.runtime.model("a").inject_fault("actor")
        await until(lambda: at.state("a").phase == "failed")
        assert at.state("a").problem == "DrillFault: the model's actor was told to fail"
        loaded = await at.client.post("/erllama/models/a/load")
        assert (loaded.status_code, loaded.json()["phase"]) == (200, "idle")
        assert (at.state("a").loads, at.state("a").unloads, at.state("a").problem) == (2, {"asked": 1}, None)
        assert (await at.chat("a")).status_code == 200


def test_the_process_does_not_wait_for_what_is_read_for_nobody() -> None:
    """A reload whose download stands still, say: the server that is told to end does."""
    code = (
        "import asyncio, runpy, sys, threading\n"
        "read_aside = runpy.run_path(sys.argv[1])['read_aside']\n"  # the file alone: the package takes seconds
        "async def main():\n"
        "    begun = threading.Event()\n"
        "    reading = asyncio.ensure_future(read_aside(lambda: (begun.set(), threading.Event().wait())))\n"
        "    while not begun.is_set(): await asyncio.sleep(0)\n"
        "    reading.cancel()\n"
        "    await asyncio.gather(reading, return_exceptions=True)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", code, reading.__file__]
    ended = subprocess.run(command, timeout=30, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
