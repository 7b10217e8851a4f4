"""Four streams of one model while the process of another one is killed again and again: the gaps between their tokens.

Both models are SmolLM2, each with a process of its own and four streams. What is allowed for the longest gap is three
times the median gap while nothing happens and one slice, `max_stall_ms`. A model that comes back loads its weights and
computes its four replies again on the same CPUs.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from concurrency_gaps import ms
from opened import prompt
from report import publish, table

import erllama_py as erllama
from erllama_py.serve.models import fetch

STREAMS, REPLY_TOKENS = 4, 400
KILLS, SETTLE_SECONDS = 12, 4.0
CONTEXT: erllama.ContextOptsDict = {"n_ctx": 4096, "n_seq_max": STREAMS}


class Streams:
    """Those of one model, one reply after the other; `gaps` are between two tokens of one reply."""

    def __init__(self, model: erllama.Model) -> None:
        self.gaps: list[float] = []
        self.told = 0
        self.more = asyncio.Event()  # set with each token
        self._model = model

    async def read(self, index: int) -> None:
        """One of them, for good."""
        for number in itertools.count():
            tokens = await prompt(self._model, 1000 * index + number, 24)
            before = 0.0
            async with self._model.stream(
                tokens, response_tokens=REPLY_TOKENS, temperature=0.0, ignore_eos=True
            ) as events:
                async for event in events:
                    if isinstance(event, erllama.TextDelta):
                        now = time.perf_counter()
                        if before:
                            self.gaps.append(now - before)
                        before, self.told = now, self.told + 1
                        self.more.set()


@asynccontextmanager
async def streaming(
    runtime: erllama.Runtime, model_id: str, spare: bool
) -> AsyncIterator[tuple[erllama.Model, Streams]]:
    """A model in a process of its own, and its streams."""
    config: erllama.ModelConfigDict = {
        "model_path": fetch("smollm2"), "isolation": "process", "spare": spare, "context_opts": CONTEXT,
        "restarts": {"intensity": 100, "backoff_max": 0.05},
    }  # fmt: skip
    model = await runtime.load_model(model_id, config)
    streams = Streams(model)
    reading = [asyncio.create_task(streams.read(index)) for index in range(STREAMS)]
    yield model, streams
    for task in reading:
        task.cancel()
    await asyncio.wait(reading)


async def kill(model: erllama.Model, streams: Streams) -> float:
    """Kill its process; the seconds until its streams go on."""
    pid, told, began = model.info.pid, streams.told, time.perf_counter()
    if pid is None or pid == os.getpid():
        raise SystemExit("the engine is in this process")
    os.kill(pid, signal.SIGKILL)
    while model.info.pid == pid or streams.told < told + 2 * STREAMS:
        streams.more.clear()
        await streams.more.wait()
    return time.perf_counter() - began


def line(label: str, gaps: list[float], allowed: float, back: list[float]) -> list[str]:
    """One row of the table."""
    found = sorted(gaps)
    over = sum(gap > allowed for gap in found)
    return [
        label, f"{len(found):,}", ms(statistics.median(found)), ms(found[int(0.99 * len(found))]), ms(found[-1]),
        ms(allowed), str(over), f"{statistics.median(back):.2f}" if back else "",
    ]  # fmt: skip


async def main() -> None:
    slice_seconds = erllama.SchedulerOpts().max_stall_ms / 1000
    rows = []
    for spare in (False, True):
        async with (
            erllama.Runtime() as runtime,
            streaming(runtime, "reader", False) as (_, reader),
            streaming(runtime, "victim", spare) as (victim, victims),
        ):
            await asyncio.sleep(SETTLE_SECONDS)
            reader.gaps.clear()
            await asyncio.sleep(KILLS * SETTLE_SECONDS / 2)
            quiet = list(reader.gaps)
            allowed = 3 * statistics.median(quiet) + slice_seconds
            reader.gaps.clear()
            back = []
            for _ in range(KILLS):
                back.append(await kill(victim, victims))
                await asyncio.sleep(3 * SETTLE_SECONDS if spare else SETTLE_SECONDS)
            name = "with a spare" if spare else "without a spare"
            rows.append(line(f"{name}, nothing happens", quiet, allowed, []))
            rows.append(line(f"{name}, {KILLS} kills of the other model", reader.gaps, allowed, back))
    head = ["SmolLM2-135M, 4 + 4 streams", "gaps", "median", "99 %", "longest", "allowed", "longer", "back after, s"]
    publish("isolation-gaps", table(head, rows))


if __name__ == "__main__":
    asyncio.run(main())
