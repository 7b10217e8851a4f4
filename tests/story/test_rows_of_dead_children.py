"""Rows of several dead children at a slow tier: they count in the budget until they are stored, whole, and then
everything is given back."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from helpers.cache import TIER, opened
from helpers.leftovers import belongings, same_as
from helpers.runtime import until
from helpers.storm import GUARD_SECONDS, config
from helpers.tampered_files import Stage, TamperedFiles, Waiting

import erllama_py as erllama

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.either_loop]

BUDGET = 16 << 20  # of sixteen blocks: what is saved of two lives takes all of them
LIVES = 4
GREEDY: dict[str, Any] = {"temperature": 0.0, "response_tokens": 30, "ignore_eos": True}


def prompt(number: int) -> list[int]:
    """No two begin alike."""
    return [97 + number, *b"ox after ox after ox after ox "] * 4


def has_restarted(model: erllama.Model, restarts: int) -> bool:
    """Whether it was begun again since there were so many."""
    return model.info.restarts > restarts


@pytest.mark.parametrize("stage", [Stage.CREATE, Stage.WRITE, Stage.LINK])
async def test_rows_of_several_dead_children_are_stored_whole(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of them waits in the tier until the last child is dead too."""
    told = config("a", tmp_path, isolation="process", tier="disk", tier_srv=TIER)
    tiers: dict[str, erllama.TierDict] = {TIER: {"kind": "disk", "root": tmp_path / "rows", "quota_bytes": 64 << 20}}
    async with erllama.Runtime() as runtime:  # so that nothing is made for the first time later
        model = await runtime.load_model("m", config("a", tmp_path, isolation="process"))
        expected = [(await model.complete(prompt(number), **GREEDY)).generated for number in range(LIVES)]
    before, waiting = belongings(), Waiting(stage)
    monkeypatch.setattr("erllama_py.tiers.directory.Files", lambda: TamperedFiles(waiting))
    with anyio.fail_after(GUARD_SECONDS):
        async with erllama.Runtime(tiers=tiers, save_buffer_bytes=BUDGET) as runtime:
            await opened(runtime)
            model = await runtime.load_model("m", told)
            ledger = runtime._buffers.share()

            def leased() -> int:
                return int(ledger._page.cells[:, 0].sum())

            for number in range(LIVES):
                assert (await model.complete(prompt(number), **GREEDY)).generated == expected[number]
                if not number:
                    await waiting.reached.wait()
                assert 0 < leased() <= BUDGET
                pid, restarts = model.info.pid, model.info.restarts
                os.kill(pid or 0, signal.SIGSEGV)
                await until(partial(has_restarted, model, restarts))
                assert 0 < leased() <= BUDGET
                assert ledger._page.cells[1, 0] > 0  # what is left of those that died
            waiting.go_on()
            await runtime.cache.flush()
            await until(lambda: leased() == 0)
            hits = [(await model.explain(prompt(number))).hit_tokens for number in range(LIVES)]
            assert hits[0] >= len(prompt(0)) // 2
            for number in range(LIVES):
                assert (await model.complete(prompt(number), **GREEDY)).generated == expected[number]
            assert model.info.restarts == LIVES
    await same_as(before)
