"""Native crashes, again and again, while the streams of two models go on: see `helpers.storm`.

`ERLLAMA_CRASHES` is how many there are.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from helpers.blows import known_children
from helpers.leftovers import belongings, same_as
from helpers.storm import KINDS, Storm, asks, config, crashes, undisturbed
from helpers.strikes import HOWS, OPERATIONS, Strikes, hits, one_thread, plans

import erllama_py as erllama
from erllama_py.engine.process.life import watchdog

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.either_loop]

CRASHES = crashes(len(OPERATIONS))
MEMORY = 1 << 30  # far more than a tiny model takes: the limit is there to be lowered


async def test_each_stream_ends_with_the_reply_of_an_undisturbed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends a process, and whatever it is in; the other model's streams go on, and nothing is left."""
    monkeypatch.setattr(watchdog, "STOPPED_SECONDS", 0.6)
    pick, asked, made = random.Random(1), asks(), known_children(monkeypatch)
    truth = await undisturbed(tmp_path, asked)
    with one_thread() as pool:
        pool.submit(int).result()  # now it has its thread
        async with erllama.Runtime() as runtime:  # so that nothing is made for the first time later
            await runtime.load_model("a", config("a", tmp_path, isolation="process"))
        before, tasks = belongings(), asyncio.all_tasks()
        async with erllama.Runtime() as runtime:
            more = {"isolation": "process", "process_opts": {"memory_bytes": MEMORY}}
            models = {name: await runtime.load_model(name, config(name, tmp_path, **more)) for name in KINDS}
            storm = Storm(models, asked, truth)
            strikes = Strikes(models, storm, made, pool)
            try:
                async with storm.blowing():
                    for plan in plans(CRASHES):
                        victim = "a" if plan.operation == "embed" else pick.choice(list(KINDS))
                        await storm.moved(victim, pick.choice((1, 1, 5, 40)))
                        async with storm.nobody_else_waits(victim):
                            await strikes.strike(victim, plan)
                            await storm.moved(victim)
            except BaseException as error:
                error.add_note("\n".join(strikes.said))
                raise
            print(strikes.hit, strikes.by, storm.done)
            assert {name: model.info.restarts for name, model in models.items()} == strikes.crashes
        assert asyncio.all_tasks() == tasks
        made.clear()
        await same_as(before)
    assert strikes.hit == hits([*plans(CRASHES)])
    if len(OPERATIONS) <= CRASHES:
        assert set(strikes.by) == set(HOWS)
