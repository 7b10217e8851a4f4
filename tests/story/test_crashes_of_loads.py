"""A process that ends while its model is loaded for the first time, or unloaded: the call says so or is done, and
nothing is left."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from pathlib import Path

import pytest
from helpers.blows import SIGNALS, Blow, known_children, stand_in, strike
from helpers.leftovers import belongings, same_as
from helpers.storm import config, crashes
from helpers.strikes import one_thread

import erllama_py as erllama
from erllama_py.engine.process.child import Child
from erllama_py.engine.process.engine import EngineProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.either_loop]

CRASHES = crashes(3)
MOST_LOADS = 50 * CRASHES  # an operation is short, and the look at it may come too late
BLOWS: tuple[Blow, ...] = SIGNALS[:3]


async def test_a_first_load_that_crashes_is_refused_with_what_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one finds its id free, and is loaded."""
    made, loop, before = known_children(monkeypatch), asyncio.get_running_loop(), Counter[str]()
    struck = 0
    with one_thread() as pool:

        def load_is_struck(number: int, blow: Blow, over: threading.Event) -> bool:
            child = _the(made, number)
            stands = stand_in(child, "load", over.is_set)
            if stands:
                strike(child, blow)
            return stands

        async def load(runtime: erllama.Runtime) -> str | None:
            """What came of it, where it has failed."""
            try:
                await runtime.load_model("a", config("a", tmp_path, isolation="process"))
            except erllama.ModelLoadError as error:
                return str(error)
            return None

        async with erllama.Runtime() as runtime:
            for number in range(MOST_LOADS):
                if struck == CRASHES:
                    break
                blow, over = BLOWS[struck % len(BLOWS)], threading.Event()
                striking = loop.run_in_executor(pool, load_is_struck, number, blow, over)
                problem = await load(runtime)
                over.set()
                assert (problem is not None) is await striking
                if problem is None:  # it was faster
                    await runtime.unload("a")
                    continue
                assert blow in problem
                struck += 1
                before = before or belongings()
                await same_as(before)
            model = await runtime.load_model("a", config("a", tmp_path, isolation="process"))
            assert (await model.complete("hello", response_tokens=2)).generated
    assert struck == CRASHES


async def test_an_unload_in_which_the_process_crashes_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is free, which is all that was asked for; what was saved before is there when it is loaded again."""
    made, loop, before = known_children(monkeypatch), asyncio.get_running_loop(), Counter[str]()
    told = asyncio.Event()
    ask_to_stop = EngineProcess.ask_to_stop

    def noted(engine: EngineProcess) -> None:
        ask_to_stop(engine)
        told.set()

    monkeypatch.setattr(EngineProcess, "ask_to_stop", noted)
    with one_thread() as pool:
        async with erllama.Runtime() as runtime:
            for number in range(CRASHES):
                model = await runtime.load_model("a", config("a", tmp_path, isolation="process"))
                reply = await model.complete("hello and so on", response_tokens=40, temperature=0.0, ignore_eos=True)
                child = made["a"][-1]
                await loop.run_in_executor(pool, stand_in, child, None)
                told.clear()
                unloading = asyncio.create_task(runtime.unload(model))
                await told.wait()  # it has been told to end, and stands still
                await loop.run_in_executor(pool, strike, child, BLOWS[number % len(BLOWS)])
                await unloading
                assert child.death is not None
                assert child.death.signal == BLOWS[number % len(BLOWS)]
                assert runtime.list_models() == []
                assert len(reply.generated) == 40
                before = before or belongings()
                await same_as(before)


def _the(made: dict[str, list[Child]], number: int) -> Child:
    """That of the load with this number, as soon as there is one."""
    while len(made.get("a", ())) <= number:
        threading.Event().wait(0.001)
    return made["a"][number]
