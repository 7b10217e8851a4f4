"""A save at each step to the disk: if it is delayed, or its cache or tier crashes, no other is affected."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from helpers.cache import PROMPT, TIER, ask, cold, config, model_at, opened, row_files, runtime_at, text, tier_info
from helpers.crashes import crash
from helpers.fake_cache import bytes_in, temp_files
from helpers.runtime import until
from helpers.tampered_files import Stage, TamperedFiles, Waiting

import erllama_py as erllama
from erllama_py.cache.actor import CacheActor
from erllama_py.tiers.messages import Recheck

pytestmark = pytest.mark.anyio

BUDGET = 4 << 20  # four buffers


class HeldRecheck:
    """The cache's first answer to a tier that is about to publish, held up in the tier."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self._go_on = asyncio.Event(), asyncio.Event()
        handle = CacheActor.handle

        async def held(actor: CacheActor, message: Any, reply: Any) -> Any:
            if isinstance(message, Recheck) and not self._go_on.is_set():
                self.reached.set()
                actor._background.answer(reply, self._later(actor, message))
                return None
            return await handle(actor, message, reply)

        monkeypatch.setattr(CacheActor, "handle", held)

    async def _later(self, actor: CacheActor, message: Recheck) -> bool:
        await self._go_on.wait()
        return actor.reservations.stands(message.reservation)

    def go_on(self) -> None:
        """Answer, and all that come."""
        self._go_on.set()


def hold(monkeypatch: pytest.MonkeyPatch, step: str) -> Waiting | HeldRecheck:
    """The first row of the tier that comes to this step waits there."""
    if step == "recheck":
        return HeldRecheck(monkeypatch)
    waiting = Waiting(Stage(step))
    monkeypatch.setattr("erllama_py.tiers.directory.Files", lambda: TamperedFiles(waiting))
    return waiting


async def found(model: erllama.Model, prompt: str) -> int:
    """Tokens of it that are saved."""
    return (await model.explain(prompt)).hit_tokens


@pytest.mark.slow
@pytest.mark.parametrize("part", ["cache", f"tier:{TIER}"])
@pytest.mark.parametrize("step", [*(stage.value for stage in Stage if stage is not Stage.REPLACE), "recheck"])
async def test_a_crash_at_any_step_of_a_save_leaves_whole_rows_that_are_known_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, part: str
) -> None:
    """Of the row at that step and of those after it in the queue; what was not stored is saved with the eviction."""
    held = hold(monkeypatch, step)
    async with model_at(tmp_path) as (runtime, model):
        done = await ask(model, PROMPT)
        await held.reached.wait()
        actor = runtime._names.whereis(part)
        assert actor is not None
        crashing = asyncio.create_task(crash(runtime, part))
        await until(lambda: actor.exit is not None)
        held.go_on()
        await crashing
        await runtime.cache.flush()
        assert temp_files(tmp_path) == []
        rows = await runtime.cache.rows()
        assert {path.name for path in row_files(tmp_path)} == {f"{row.key}.row" for row in rows}
        assert (await tier_info(runtime)).used_bytes == bytes_in(tmp_path / "rows")
        await until(lambda: runtime._buffers.leased == 0)  # the writer's thread lets go of its last job by itself
        await runtime.evict(model)
        assert await found(model, PROMPT + done.reply[:11]) == done.committed_tokens
    assert done.reply == await cold(PROMPT)


@pytest.mark.slow
async def test_a_disk_that_is_blocked_takes_no_more_than_the_buffers_and_delays_no_other_tier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replies come, rows in memory are saved and hit, and what the disk does not take is dropped and counted."""
    held = hold(monkeypatch, "sync")
    taken: list[int] = []
    async with model_at(tmp_path, runtime_options={"save_buffer_bytes": BUDGET}) as (runtime, model):
        other = await runtime.load_model("other", config(cache_salt="x"))
        await ask(other, PROMPT)
        await runtime.evict(other)
        first = await ask(model, PROMPT)
        await held.reached.wait()
        for number in range(6):
            await ask(model, text(300, seed=number))
            taken.append(runtime._buffers.leased)
            await ask(other, text(40, seed=1))
            assert (await ask(other, PROMPT)).cache_hit_kind == "exact"
        counters = await runtime.cache.counters()
        assert max(taken) <= BUDGET
        assert counters["saves.dropped.no_buffer"] > 0
        assert [path.suffix for path in row_files(tmp_path)] == [".tmp"]
        flushing = asyncio.create_task(runtime.cache.flush())
        assert (await ask(other, PROMPT)).reply == first.reply
        assert not flushing.done()
        held.go_on()
        await flushing
        await until(lambda: runtime._buffers.leased == 0)  # the writer's thread lets go of its last job by itself
        assert await found(model, PROMPT) > 0
        await opened(runtime)
    assert first.reply == await cold(PROMPT)


async def test_what_an_application_puts_into_a_blocked_tier_is_bounded_by_its_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes lie in no buffer of ours: rows that the quota has no room for do not join the queue."""
    held = hold(monkeypatch, "create")
    identity, payload = erllama.Identity(b"f" * 32, 4, b"c" * 32), bytes(200_000)
    async with runtime_at(tmp_path, quota_bytes=1 << 20) as runtime:
        for number in range(20):
            await runtime.cache.put(identity, [number], 0, payload, tier=TIER)
        await held.reached.wait()
        tier = await tier_info(runtime)
        counters = await runtime.cache.counters()
        fits = (1 << 20) // len(payload)
        assert counters["saves.dropped.no_room"] >= 20 - fits
        held.go_on()
        await runtime.cache.flush()
        rows = await runtime.cache.rows()
        assert len(rows) == 20 - counters["saves.dropped.no_room"] <= fits
        assert bytes_in(tmp_path) <= tier.quota_bytes
