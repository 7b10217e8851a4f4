"""Streams whose cells do not fit together change places while they run: how much others say in the pauses of one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from helpers.cache import stub_reply
from helpers.crowd import REPLY, prompts
from helpers.gated import arrived, gated
from helpers.watched import Watch

import erllama_py as erllama
from erllama_py.model import actor

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

DECODE_SECONDS = 0.001
LOOP_TURNS = 20  # after so many the loop has done what a tick has told it, and what came of that
FOREVER = {"turn_ms": 3_600_000}


class Pauses:
    """Streams side by side; `longest` is how many tokens others got between two of one."""

    def __init__(self, model: erllama.Model) -> None:
        self._model = model
        self._said = 0
        self.longest = 0
        self.replies: list[list[int]] = []
        self.parks: list[int] = []
        self.ticks = 0

    async def of(self, asked: Sequence[Sequence[int]], length: int) -> None:
        self.replies, self.parks = [[] for _ in asked], [0] * len(asked)
        with anyio.fail_after(60):  # for a test gone wrong
            async with anyio.create_task_group() as tasks:
                for number, prompt in enumerate(asked):
                    tasks.start_soon(self._read, number, list(prompt), length)

    async def _read(self, number: int, prompt: list[int], length: int) -> None:
        before = None
        async with self._model.stream(prompt, response_tokens=length, temperature=0.0) as events:
            async for event in events:
                if isinstance(event, erllama.TextDelta):
                    if before is not None:
                        self.longest = max(self.longest, self._said - before)
                    self._said += len(event.token_ids)
                    before = self._said
                    self.replies[number] += event.token_ids
                elif isinstance(event, erllama.Done):
                    self.parks[number] = event.completion.stats.parks


async def pauses(
    monkeypatch: pytest.MonkeyPatch, memory: str, asked: Sequence[Sequence[int]], scheduler: dict[str, Any], *,
    length: int = REPLY, **more: Any,
) -> Pauses:  # fmt: skip
    """Of streams that fit one at a time; the machine's clock shows a millisecond a decode. After each the thread waits
    for the loop: on a busy machine it would else be many decodes ahead of whoever ends a turn."""
    watch, loop = Watch(monkeypatch), asyncio.get_running_loop()

    def meet(met: threading.Event, turns: int) -> None:
        if turns:
            loop.call_soon(meet, met, turns - 1)
        else:
            met.set()

    def wait_for_loop() -> None:
        met = threading.Event()
        loop.call_soon_threadsafe(meet, met, LOOP_TURNS)
        met.wait(60)  # for a test gone wrong

    watch.on_tick = wait_for_loop
    clock = SimpleNamespace(
        monotonic=lambda: DECODE_SECONDS * watch.ticks, time=time.time, perf_counter=time.perf_counter
    )
    monkeypatch.setattr(actor, "time", clock)
    slow = {"seconds_per_token": DECODE_SECONDS}
    context = more.pop("context_opts", {})
    async with gated(memory, context, scheduler=scheduler, stub=slow, **more) as (_, model, gate):
        seen = Pauses(model)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(seen.of, asked, length)
            await arrived(model, len(asked))  # none has begun to speak before the others are there
            gate.gate.set()
        await watch.at_rest()
        seen.ticks = watch.ticks
    assert seen.replies == [stub_reply(prompt, length) for prompt in asked]
    return seen


async def test_a_turn_ends_though_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The requests at work have 128 cells each and ask for none; a look comes when a turn is over."""
    context = {"n_ctx": 2048, "n_seq_max": 2}
    few_rows = {"boundary_align_tokens": 512, "continued_interval": 512}
    asked = prompts(2, 800, 260)
    seen = await pauses(monkeypatch, "full", asked, {"turn_ms": 20}, length=260, context_opts=context, policy=few_rows)
    assert 0 < seen.longest < 100


@pytest.mark.parametrize("memory", ["full", "window", "hybrid"])
async def test_no_stream_pauses_for_as_long_as_the_others_take(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is parked again and again, the first too, and says what it says alone."""
    seen = await pauses(monkeypatch, memory, prompts(3), {"turn_ms": 10})
    assert min(seen.parks) > 1
    assert seen.longest < REPLY / 2


async def test_without_turns_the_last_is_silent_until_another_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the test before this one tests something."""
    seen = await pauses(monkeypatch, "full", prompts(3), FOREVER)
    assert seen.parks[0] == 0
    assert seen.longest > REPLY / 2


async def test_where_nothing_is_saved_turns_are_long_enough_to_get_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """All is computed again after each park; the turn is a multiple of what that took, so it ends."""
    policy = {"min_tokens": None, "cold_min_tokens": None}
    seen = await pauses(monkeypatch, "full", prompts(3), {"turn_ms": 1}, policy=policy)
    assert min(seen.parks) > 0
    assert seen.ticks <= 1.5 * 3 * REPLY
