"""One stream while others of the same model read, save, restore or park 2,900 tokens: the gaps between its tokens.

A reader notes when each token comes; its requests have the highest priority, so that it is never parked itself. What
is allowed for the longest gap is three times the median gap of a stream alone and one slice: `max_stall_ms`.

Three policies: saving nothing, for what reading a prompt costs; the default one, which saves a prompt piece by piece
while it is read; and one that saves no prompt before its request ends, so that all of it is copied out then.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from opened import N_THREADS, QUOTA, prompt
from report import publish, table

import erllama_py as erllama
from erllama_py.serve.models import fetch

LENGTH = 2900
N_CTX, N_SEQ_MAX = 8192, 3
REPLY_TOKENS = 400  # of each of the reader's streams; the gap between two of them is not counted
WARM = 10  # gaps before anything is measured
ALONE_SECONDS = 5.0
ROUNDS, RESTORES = 3, 5
HELD: dict[str, Any] = {"priority": -1, "response_tokens": 400, "temperature": 0.0}
SHORT: dict[str, Any] = {"priority": 1, "response_tokens": 8, "temperature": 0.0}

Work = Callable[[], Awaitable[object]]


class Reader:
    """Streams again and again, and keeps the gaps between two tokens."""

    def __init__(self, model: erllama.Model) -> None:
        self._model = model
        self.gaps: list[float] = []
        self.warm = asyncio.Event()
        self.next = asyncio.Event()

    async def read(self) -> None:
        for number in itertools.count():
            before = 0.0
            text = f"{number} stories of the sea and of the land: "
            async with self._model.stream(text, response_tokens=REPLY_TOKENS, seed=number, priority=2) as events:
                async for event in events:
                    if isinstance(event, erllama.TextDelta):
                        now = time.perf_counter()
                        if before:
                            self.gaps.append(now - before)
                        before = now
                        self.next.set()
                        if len(self.gaps) >= WARM:
                            self.warm.set()


class Phase(NamedTuple):
    """What one kind of work took, and the gaps of the stream beside it."""

    seconds: list[float]
    gaps: list[float]

    async def beside(self, model: erllama.Model, work: Work) -> None:
        """Do the work beside a stream."""
        reader = Reader(model)
        reading = asyncio.create_task(reader.read())
        await reader.warm.wait()
        reader.gaps.clear()
        began = time.perf_counter()
        await work()
        self.seconds.append(time.perf_counter() - began)
        reader.next.clear()
        await reader.next.wait()  # the gap that was open when the work was done
        self.gaps.extend(reader.gaps)
        reading.cancel()
        await asyncio.wait([reading])

    def line(self, label: str, allowed: float) -> list[str]:
        """One row of the table."""
        gaps, seconds = sorted(self.gaps), statistics.median(self.seconds)
        middle, most = statistics.median(gaps), gaps[-1]
        return [
            label, str(len(self.seconds)), f"{seconds:.2f}", str(len(gaps)), ms(middle),
            ms(gaps[int(0.99 * len(gaps))]), ms(most), ms(allowed),
        ]  # fmt: skip


@asynccontextmanager
async def model_with(policy: erllama.PolicyOptsDict) -> AsyncIterator[tuple[erllama.Runtime, erllama.Model]]:
    """A model that saves to a disk, if at all."""
    context: erllama.ContextOptsDict = {"n_ctx": N_CTX, "n_seq_max": N_SEQ_MAX, "n_threads": N_THREADS}
    config: erllama.ModelConfigDict = {
        "model_path": fetch("smollm2"),
        "context_opts": context,
        "tier": "disk",
        "tier_srv": "disk",
    }
    with TemporaryDirectory() as folder:
        tiers = {"disk": erllama.DiskTier(str(Path(folder)), QUOTA)}
        async with erllama.Runtime(tiers=tiers) as runtime:
            yield runtime, await runtime.load_model("gaps", {**config, "policy": policy})


@asynccontextmanager
async def held(model: erllama.Model, tokens: list[int]) -> AsyncIterator[erllama.Stream]:
    """A request on a long prompt that generates; it has the lowest priority."""
    async with model.stream(tokens, **HELD) as events:
        async for event in events:
            if isinstance(event, erllama.TextDelta):
                break
        yield events


async def until_done(events: erllama.Stream) -> erllama.Completion:
    """Cancel a stream, and wait for its end: its cells are copied out then, as far as they are not saved."""
    events.cancel()
    async for event in events:
        if isinstance(event, erllama.Done):
            return event.completion
    raise AssertionError


async def crowd_out(model: erllama.Model, events: erllama.Stream) -> None:
    """Take all sequences, so that the request of the lowest priority is parked, and wait until it is back at work."""
    texts = [f"{number} ways to cross a river:" for number in range(N_SEQ_MAX - 1)]
    await asyncio.gather(*[model.complete(text, **SHORT) for text in texts])
    async for event in events:  # what was generated before it was parked has come already
        if isinstance(event, erllama.TextDelta) and model.pending_len == 0:
            break


async def reading(phases: dict[str, Phase], whole: list[float]) -> None:
    """Nothing is saved: a stream alone, a prompt alone, and both."""
    async with model_with({"min_tokens": None}) as (_, model):
        await phases["nothing"].beside(model, partial(asyncio.sleep, ALONE_SECONDS))
        for number in range(ROUNDS):
            began = time.perf_counter()
            await model.complete(await prompt(model, 2 * number, LENGTH), response_tokens=1)
            whole.append(time.perf_counter() - began)
            tokens = await prompt(model, 2 * number + 1, LENGTH)
            await phases["read"].beside(model, partial(model.complete, tokens, response_tokens=1))


async def as_shipped(phases: dict[str, Phase]) -> None:
    """Saved while it is read, restored, and parked when nearly all of it is saved."""
    async with model_with({}) as (runtime, model):
        long = await prompt(model, 100, LENGTH)

        async def read() -> None:
            await model.complete(long, response_tokens=1)
            await runtime.cache.flush()

        async def restore(tokens: list[int]) -> None:
            done = await model.complete(tokens, response_tokens=1)
            assert done.cache_hit_kind == "partial"
            assert done.cache_delta.read >= LENGTH - 1

        await phases["read and saved"].beside(model, read)
        for number in range(RESTORES):
            await runtime.evict(model)
            await phases["restored"].beside(model, partial(restore, [*long, 100 + number]))
        for _ in range(ROUNDS):
            async with held(model, long) as events:
                await phases["parked"].beside(model, partial(crowd_out, model, events))
                assert (await until_done(events)).stats.parks


async def late(phases: dict[str, Phase]) -> None:
    """Saved in one piece when its request ends, and parked when nothing of it is saved."""
    async with model_with({"cold_max_tokens": 128}) as (runtime, model):

        async def save(events: erllama.Stream) -> None:
            await until_done(events)
            await runtime.cache.flush()

        for number in range(ROUNDS):
            async with held(model, await prompt(model, 200 + 2 * number, LENGTH)) as events:
                await phases["saved late"].beside(model, partial(save, events))
            async with held(model, await prompt(model, 201 + 2 * number, LENGTH)) as events:
                await phases["parked late"].beside(model, partial(crowd_out, model, events))
                assert (await until_done(events)).stats.parks


LABELS = {
    "nothing": "nothing",
    "read": f"{LENGTH:,} tokens read, and not saved",
    "read and saved": f"{LENGTH:,} tokens read, and saved piece by piece",
    "restored": f"{LENGTH:,} tokens restored from disk",
    "parked": f"{LENGTH:,} tokens parked, all but the end saved before, and taken up again",
    "saved late": f"{LENGTH:,} tokens saved when their request ends (`cold_max_tokens`)",
    "parked late": f"{LENGTH:,} tokens parked that were not saved, and taken up again",
}


async def main() -> None:
    phases = {name: Phase([], []) for name in LABELS}
    whole: list[float] = []
    await reading(phases, whole)
    await as_shipped(phases)
    await late(phases)
    allowed = 3 * statistics.median(phases["nothing"].gaps) + erllama.SchedulerOpts().max_stall_ms / 1000
    head = [
        "a stream of SmolLM2-135M while others do this", "times", "seconds (median)", "gaps", "median gap, ms",
        "99 of 100", "longest gap", "allowed",
    ]  # fmt: skip
    text = table(head, [phase.line(LABELS[name], allowed) for name, phase in phases.items()])
    alone, beside = statistics.median(whole), statistics.median(phases["read"].seconds)
    head = [f"{LENGTH:,} tokens read; s", "alone", "beside a stream", "longer"]
    text += "\n\n" + table(head, [["SmolLM2-135M", f"{alone:.1f}", f"{beside:.1f}", f"{beside / alone:.2f} ×"]])
    publish("concurrency_gaps", text)


def ms(seconds: float) -> str:
    """Milliseconds."""
    return f"{seconds * 1000:.1f}"


if __name__ == "__main__":
    asyncio.run(main())
