"""One stream while another model computes, saves and restores 2,900 tokens: gaps between tokens, and the event loop.

Two models in one process, each with one thread, so that both have a CPU where there are two. A reader notes when each
token of the first one's streams comes, a heartbeat how late the event loop turns.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable
from pathlib import Path
from tempfile import TemporaryDirectory

from loop import Heart
from opened import MODELS, N_CTX, opened, prompt
from report import publish, table

import erllama_py as erllama
from erllama_py.serve.models import fetch

NAME = "smollm2"
LENGTH = 2900
REPLY_TOKENS = 400  # of each stream; one follows the other, and the gap between two is not counted
ALONE_SECONDS = 5.0
RESTORES = 10
LIMIT_MS = 20


class Reader:
    """Streams again and again, and keeps the gaps between two tokens."""

    def __init__(self, model: erllama.Model) -> None:
        self._model = model
        self.gaps: list[float] = []

    async def read(self) -> None:
        for number in itertools.count():
            # Other words each time, so that this model has something to decode and nothing to find.
            text = f"{number} stories of the sea and of the land: "
            before = 0.0
            async with self._model.stream(text, response_tokens=REPLY_TOKENS, seed=number) as events:
                async for event in events:
                    if isinstance(event, erllama.TextDelta):
                        now = time.perf_counter()
                        if before:
                            self.gaps.append(now - before)
                        before = now


async def main() -> None:
    rows: list[list[str]] = []
    with TemporaryDirectory() as folder:
        async with opened(NAME, Path(folder), n_threads=1) as (runtime, model):
            config: erllama.ModelConfigDict = {
                "model_path": fetch(NAME),
                "context_opts": {"n_ctx": N_CTX, "n_seq_max": 1, "n_threads": 1},
            }
            other = await runtime.load_model("other", {**config, "policy": {"min_tokens": None}})
            reader, heart = Reader(other), Heart()
            tasks = [asyncio.create_task(work) for work in (reader.read(), heart.beat())]
            long, short = await prompt(model, 1, LENGTH), await prompt(model, 2, 64)

            async def phase(label: str, work: Awaitable[object]) -> None:
                reader.gaps.clear()
                heart.late.clear()
                began = time.perf_counter()
                await work
                seconds = time.perf_counter() - began
                gaps, late = sorted(reader.gaps), max(heart.late)
                rows.append(
                    [
                        label, f"{seconds:.1f}", str(len(gaps)), ms(statistics.median(gaps)),
                        ms(gaps[int(0.99 * len(gaps))]), ms(gaps[-1]), ms(late),
                    ]
                )  # fmt: skip

            async def compute() -> None:
                await model.complete(long, response_tokens=1)
                await runtime.cache.flush()

            async def restore() -> None:
                for number in range(RESTORES):
                    done = await model.complete([*long, 100 + number], response_tokens=1)
                    assert done.cache_delta.read >= LENGTH - 1
                    await model.complete(short, response_tokens=1)

            await asyncio.sleep(1.0)  # until the stream runs
            await phase("nothing", asyncio.sleep(ALONE_SECONDS))
            await phase(f"{LENGTH:,} tokens computed and saved", compute())
            await phase(f"{LENGTH:,} tokens restored from disk, {RESTORES} times", restore())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    head = [
        f"a stream of {MODELS[NAME]} while another model does this", "seconds", "gaps", "median gap, ms", "99 of 100",
        "longest gap", f"longest wait of the loop, ms (at most {LIMIT_MS})",
    ]  # fmt: skip
    publish("cache_streams", table(head, rows))


def ms(seconds: float) -> str:
    """Milliseconds."""
    return f"{seconds * 1000:.1f}"


if __name__ == "__main__":
    asyncio.run(main())
