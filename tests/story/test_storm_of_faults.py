"""Faults in Python, again and again, while the streams of two models go on: see `helpers.storm`."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from helpers.leftovers import belongings, same_as
from helpers.runtime import engine_threads
from helpers.storm import CALLERS, KINDS, Storm, asks, config, crashes, restarted, undisturbed

import erllama_py as erllama
from erllama_py.scheduler.messages import FaultPlace

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.either_loop]

CRASHES = crashes(8)
PLACES: tuple[FaultPlace, ...] = ("actor", "thread", "decode")


async def test_each_stream_ends_with_the_reply_of_an_undisturbed_run(tmp_path: Path) -> None:
    """Whatever fails, and whenever; the other model's streams go on meanwhile, and nothing is left."""
    pick, asked = random.Random(1), asks()
    truth = await undisturbed(tmp_path, asked)
    before, tasks = belongings(), asyncio.all_tasks()
    async with erllama.Runtime() as runtime:
        models = {model_id: await runtime.load_model(model_id, config(model_id, tmp_path)) for model_id in KINDS}
        storm = Storm(models, asked, truth)
        async with storm.blowing():
            for number in range(CRASHES):
                victim = pick.choice(list(KINDS))
                await storm.moved(victim, pick.choice((1, 1, 5, 40)))
                model, place = models[victim], PLACES[number % len(PLACES)]
                async with storm.nobody_else_waits(victim):
                    restarts = model.info.restarts
                    model.inject_fault(place)
                    await restarted(model, restarts)
                    await storm.moved(victim)
        assert sum(storm.done.values()) >= len(KINDS) * CALLERS
        assert sum(model.info.restarts for model in models.values()) == CRASHES
    assert asyncio.all_tasks() == tasks
    assert engine_threads() == []
    await same_as(before)
