"""Prompts beside prompts and beside a stream: what small slices cost, and what that does to those who wait.

First the bare loop, in another process: a decode of one row and a slice of a prompt, by the size of the slice. Then
eight long prompts with short replies, all at once against one after the other. Then one long prompt beside a stream
against the same alone, by `max_stall_ms`. Nothing is saved and nothing shared, so all is computed.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import llama_cpp
from bare_batch import BareBatch
from concurrency_gaps import Phase, ms
from fresh import Answer, peer
from opened import MODELS, N_THREADS, prompt
from report import publish, table

import erllama_py as erllama
from erllama_py.serve.models import fetch

SIZES = (1, 3, 4, 7, 8, 15, 16, 31, 32, 60, 63, 64, 127, 255, 511)
DEPTHS = {"smollm2": (256, 2500), "gemma3": (256,)}
SLICE_ROUNDS = 5
BATCH = 512  # what is read at a time where nobody waits
PROMPTS, PROMPT_TOKENS, REPLY_TOKENS = 8, 700, 24
LONG_TOKENS = 2800
STALLS = (100, 370)  # the default, and a tenth of the gap that llama-server makes with such a prompt
N_CTX = 8192
ROUNDS = 3
OPTIONS: dict[str, Any] = {"temperature": 0.0}


# --- slices --------------------------------------------------------------------------------------------------------


class Slices(BareBatch):
    """Decodes of a row and a slice, both behind `depth` tokens."""

    def take(self, depth: int, row: bool, size: int) -> float:
        """Seconds of one decode; what it has put in is taken out again."""
        for seq_id in range(2):
            held = llama_cpp.llama_memory_seq_pos_max(self.memory, seq_id) + 1
            for start in range(held, depth, BATCH):
                self._read(0, seq_id, start, min(BATCH, depth - start))
            llama_cpp.llama_memory_seq_rm(self.memory, seq_id, depth, -1)
        if row:
            self._put(0, 2000, depth, 0)
        return self._read(int(row), 1, depth, size)

    def _read(self, rows: int, seq_id: int, start: int, size: int) -> float:
        for index in range(size):
            self._put(rows + index, 1000 + (start + index) % 997, start + index, seq_id, wanted=False)
        self._batch.n_tokens = rows + size
        began = time.perf_counter()
        self._decode()
        llama_cpp.llama_synchronize(self.context)
        return time.perf_counter() - began


@asynccontextmanager
async def slicing(path: Path) -> AsyncIterator[Answer]:
    """A part: answers with the median seconds of a decode, by the size of the slice; `BATCH` has no row beside it."""
    loop = Slices(path, N_CTX, N_THREADS, 2)

    async def answer(depth: int) -> dict[int, float]:
        took: dict[int, list[float]] = {size: [] for size in (0, *SIZES, BATCH)}
        for _ in range(SLICE_ROUNDS + 1):
            for size in random.sample(list(took), len(took)):
                took[size].append(loop.take(depth, size != BATCH, size))
        return {size: statistics.median(seconds[1:]) for size, seconds in took.items()}

    yield answer


def slices() -> str:
    """The table of what a token of a slice costs."""
    columns: dict[str, dict[int, float]] = {}
    for name, depths in DEPTHS.items():
        with peer(slicing, Path(fetch(name))) as bare:
            for depth in depths:
                columns[f"{MODELS[name]}, after {depth:,} tokens"] = bare.ask(depth)

    def cell(took: dict[int, float], size: int) -> str:
        each = (took[size] - took[0]) / size
        return f"{ms(took[size])}; {ms(each)} ({each / (took[BATCH] / BATCH):.2f} ×)"

    head = ["tokens beside one row; ms of a decode, and of a token more (of one of 512 alone)", *columns]
    rows = [["none", *[ms(took[0]) for took in columns.values()]]]
    rows += [[str(size), *[cell(took, size) for took in columns.values()]] for size in SIZES]
    return table(head, rows)


# --- prompts together ----------------------------------------------------------------------------------------------


class Heard(NamedTuple):
    """When the tokens of one reply came, in seconds."""

    times: list[float]

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in itertools.pairwise(self.times)]


@asynccontextmanager
async def loaded(**scheduler: Unpack[erllama.SchedulerOptsDict]) -> AsyncIterator[erllama.Model]:
    """A model that saves nothing."""
    context: erllama.ContextOptsDict = {"n_ctx": N_CTX, "n_seq_max": PROMPTS, "n_threads": N_THREADS}
    config: erllama.ModelConfigDict = {
        "model_path": fetch("smollm2"),
        "context_opts": context,
        "policy": {"min_tokens": None},
    }
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("prompts", {**config, "scheduler": scheduler})
        await model.complete("Once", response_tokens=16)
        yield model


async def ask(model: erllama.Model, tokens: Sequence[int]) -> Heard:
    """One request; its tokens' times count from now."""
    began, times = time.perf_counter(), list[float]()
    async with model.stream(tokens, response_tokens=REPLY_TOKENS, **OPTIONS) as events:
        async for event in events:
            if isinstance(event, erllama.TextDelta):
                times.append(time.perf_counter() - began)
    return Heard(times)


async def together() -> str:
    """The table of eight prompts, at once and one after the other; rounds of both take turns."""
    numbers = itertools.count()
    took: dict[bool, list[float]] = {True: [], False: []}
    heard: dict[bool, list[Heard]] = {True: [], False: []}
    async with loaded() as model:
        for at_once in [True, False] * (ROUNDS + 1):
            prompts = [await prompt(model, next(numbers), PROMPT_TOKENS) for _ in range(PROMPTS)]
            began = time.perf_counter()
            if at_once:
                replies = await asyncio.gather(*[ask(model, one) for one in prompts])
            else:
                replies = [await ask(model, one) for one in prompts]
            took[at_once].append(time.perf_counter() - began)
            heard[at_once].append(Heard([one.times[0] for one in replies]))
            heard[at_once].extend(replies)
    labels = {False: "one after the other", True: "all at once"}
    ratios = [both / single for both, single in zip(took[True][1:], took[False][1:], strict=True)]

    def line(at_once: bool) -> list[str]:
        every = PROMPTS + 1
        rounds = [heard[at_once][start : start + every] for start in range(every, len(heard[at_once]), every)]
        firsts = [sorted(one[0].times) for one in rounds]
        gaps = sorted(gap for one in rounds for reply in one[1:] for gap in reply.gaps)
        return [
            labels[at_once], f"{statistics.median(took[at_once][1:]):.2f}", f"{median(one[0] for one in firsts):.2f}",
            f"{median(statistics.median(one) for one in firsts):.2f}", f"{median(one[-1] for one in firsts):.2f}",
            ms(statistics.median(gaps)), ms(gaps[int(0.99 * len(gaps))]), ms(gaps[-1]),
            f"{statistics.median(ratios):.2f} × ({min(ratios):.2f}-{max(ratios):.2f})" if at_once else "",
        ]  # fmt: skip

    head = [
        f"{PROMPTS} prompts of {PROMPT_TOKENS} tokens, replies of {REPLY_TOKENS}", "all whole, s",
        "first token after asking, s: the soonest", "median", "the last", "median gap, ms", "99 of 100", "longest",
        "of the time of one after the other (at most 1.05)",
    ]  # fmt: skip
    return table(head, [line(False), line(True)])


# --- beside a stream -----------------------------------------------------------------------------------------------


async def beside() -> str:
    """The table of one long prompt beside a stream, and alone."""
    lines = []
    for stall in STALLS:
        phase, alone, numbers = Phase([], []), list[float](), itertools.count(500)
        async with loaded(max_stall_ms=stall) as model:
            for _ in range(ROUNDS):
                began = time.perf_counter()
                await model.complete(await prompt(model, next(numbers), LONG_TOKENS), response_tokens=1)
                alone.append(time.perf_counter() - began)
                tokens = await prompt(model, next(numbers), LONG_TOKENS)
                await phase.beside(model, partial(model.complete, tokens, response_tokens=1))
        gaps, ratios = sorted(phase.gaps), [one / other for one, other in zip(phase.seconds, alone, strict=True)]
        lines.append(
            [
                str(stall), f"{median(alone):.2f}", f"{median(phase.seconds):.2f}",
                f"{median(ratios):.2f} × ({min(ratios):.2f}-{max(ratios):.2f})",
                ms(median(gaps)), ms(gaps[int(0.99 * len(gaps))]), ms(gaps[-1]),
            ]
        )  # fmt: skip
    head = [
        f"`max_stall_ms`; a prompt of {LONG_TOKENS:,} tokens", "first token alone, s", "beside one stream", "longer",
        "median gap of the stream, ms", "99 of 100", "longest",
    ]  # fmt: skip
    return table(head, lines)


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


async def main() -> None:
    parts = [slices(), await together(), await beside()]
    publish("concurrency_prompts", "\n\n".join(parts))


if __name__ == "__main__":
    asyncio.run(main())
