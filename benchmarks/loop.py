"""The event loop and decoding leave each other alone.

First: how late a heartbeat of 1 ms comes while a model is hashed and loaded, prefills, decodes and unloads.
Second: the decode rate while the loop is busy half the time (10 ms of Python, 10 ms idle), against an idle
loop, alternating rounds. The second part decodes on one thread fewer than there are CPUs: the busy loop
needs one for itself, and a core that is shared would be measured instead of the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from report import publish, table

import erllama_py as erllama
from erllama_py.options.runtime import SWITCH_SECONDS
from erllama_py.serve.models import fetch

BEAT = 0.001
BUSY = 0.010
TOKENS = 96
ROUNDS = 8
LIMIT_MS = 20


class Heart:
    """A task that sleeps `BEAT` seconds again and again, and keeps how late it woke."""

    def __init__(self) -> None:
        self.late: list[float] = []

    async def beat(self) -> None:
        while True:
            due = time.perf_counter() + BEAT
            await asyncio.sleep(BEAT)
            self.late.append(time.perf_counter() - due)

    @contextlib.contextmanager
    def phase(self, name: str, rows: list[list[str]]) -> Iterator[None]:
        self.late.clear()
        yield
        late = sorted(self.late) or [0.0]
        rows.append([name, f"{statistics.median(late) * 1000:.2f}", f"{late[-1] * 1000:.1f}", str(len(late))])


async def lateness(path: Path, home: str) -> list[list[str]]:
    """Rows: phase, median and longest lateness in ms, beats."""
    rows: list[list[str]] = []
    heart = Heart()
    beating = asyncio.create_task(heart.beat())
    async with erllama.Runtime(home=home) as runtime:
        with heart.phase("load (first in the process: hash, import of llama.cpp, weights)", rows):
            model = await runtime.load_model("a", {"model_path": path, "context_opts": {"n_ctx": 4096, "n_seq_max": 1}})
        with heart.phase("load of a second model while the first decodes", rows):
            stream = asyncio.create_task(model.complete("Once", response_tokens=TOKENS, temperature=0.0))
            await runtime.load_model("b", {"model_path": path})
            await stream
        with heart.phase("prefill, 2,900 tokens", rows):
            prompt = (await model.tokenize("The quick brown fox jumps over the lazy dog. " * 400))[:2900]
            await model.complete(prompt, response_tokens=1)
        with heart.phase("decode, streamed", rows):
            async with model.stream("Once upon a time", response_tokens=TOKENS, temperature=0.0) as events:
                async for _ in events:
                    pass
        with heart.phase("decode, streamed, with a grammar", rows):
            async with model.stream("Names:", response_tokens=24, grammar="root ::= [a-z ,]+") as events:
                async for _ in events:
                    pass
        with heart.phase("unload", rows):
            await runtime.unload(model)
    beating.cancel()
    return rows


@contextlib.asynccontextmanager
async def busy_loop() -> AsyncIterator[None]:
    """Python code on the loop, half the time."""

    async def spin() -> None:
        while True:
            until = time.perf_counter() + BUSY
            while time.perf_counter() < until:
                pass
            await asyncio.sleep(BUSY)

    task = asyncio.create_task(spin())
    try:
        yield
    finally:
        task.cancel()


async def busy_rates(path: Path, switch_seconds: float | None) -> list[float]:
    """Decode rate with a busy loop over the rate with an idle one, round by round."""
    threads = max(1, len(os.sched_getaffinity(0)) - 1)
    ratios = []
    async with erllama.Runtime(switch_seconds=switch_seconds) as runtime:
        context: erllama.ContextOptsDict = {"n_ctx": 1024, "n_seq_max": 1, "n_threads": threads}
        model = await runtime.load_model({"model_path": path, "context_opts": context})
        options: erllama.RequestOptionsDict = {"response_tokens": TOKENS, "temperature": 0.0}
        await model.complete("Once upon a time", **options)
        for _ in range(ROUNDS):
            idle = (await model.complete("Once upon a time", **options)).stats.tokens_per_second
            async with busy_loop():
                busy = (await model.complete("Once upon a time", **options)).stats.tokens_per_second
            ratios.append(busy / idle)
    return ratios


async def main() -> None:
    path = fetch("smollm2")
    with TemporaryDirectory() as home:  # an empty home, so that the file is really hashed
        rows = await lateness(path, home)
    text = table([f"longest allowed: {LIMIT_MS} ms", "median late, ms", "longest late, ms", "beats"], rows)
    lines = []
    for label, seconds in (("as shipped (0.5 ms)", SWITCH_SECONDS), ("left alone (5 ms)", None)):
        ratios = await busy_rates(path, seconds)
        lines.append([label, f"{statistics.median(ratios):.3f}", f"{min(ratios):.3f}-{max(ratios):.3f}"])
    text += "\n\n" + table(["loop busy half the time; switch interval", "decode rate (median)", "rounds"], lines)
    publish("loop", text)


if __name__ == "__main__":
    asyncio.run(main())
