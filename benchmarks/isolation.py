"""What it costs to have the engine in a process of its own, and how soon a model is back that was killed there.

Two processes, each with one SmolLM2: in one the engine is a thread, in the other a child. They are asked in turns; each
round of the child stands between two of the thread's and is compared with their mean. An answer is the best of some in
a row. `python benchmarks/isolation.py cost` or `back` measures one of the two.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
from fresh import Answer, Peer, peer
from loop import busy_loop
from opened import prompt
from report import publish, table

import erllama_py as erllama
from erllama_py.serve.models import fetch

TOKENS, STREAMS = 96, 8
ROUNDS = 12
TIMES = 2  # in a row, of which the best one is an answer: what disturbs only slows down
LONG = 2048  # tokens that are saved and restored
KILLS, SETTLE_SECONDS = 7, 10.0
WRITTEN = 12  # tokens of a reply before the kill
CONTEXT: erllama.ContextOptsDict = {"n_ctx": 4096, "n_seq_max": STREAMS}


def greedy(tokens: int) -> erllama.RequestOptionsDict:
    """The options of a reply of so many tokens."""
    return {"response_tokens": tokens, "temperature": 0.0, "ignore_eos": True}


@asynccontextmanager
async def serving(isolation: str, *, spare: bool = False, **context: int) -> AsyncIterator[Answer]:
    """A part: one model, its engine in a thread or in a process."""
    config: Any = {
        "model_path": fetch("smollm2"), "isolation": isolation, "spare": spare, "context_opts": {**CONTEXT, **context},
        "restarts": {"intensity": 100, "backoff_max": 0.01},  # each kill as the first within a minute
    }  # fmt: skip
    async with erllama.Runtime() as runtime:
        began = time.perf_counter()
        model = await runtime.load_model("isolated", config)
        loaded = time.perf_counter() - began
        work = Work(runtime, model, loaded)

        async def answer(what: str, *given: int) -> float:
            return float(await getattr(work, what)(*given))

        yield answer


class Work:
    """What a part is asked for; each answer is one number."""

    def __init__(self, runtime: erllama.Runtime, model: erllama.Model, loaded: float) -> None:
        self._runtime, self._model, self._loaded = runtime, model, loaded

    async def load(self) -> float:
        """Seconds that the load took."""
        return self._loaded

    async def memory(self) -> float:
        """MiB of this process and its children, pages that they share counted once."""
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        return sum(one.memory_full_info().pss for one in processes) / (1 << 20)

    async def streams(self, number: int, count: int) -> float:
        """Tokens a second of so many streams, from the first token of the last one on."""
        return max([await self._streams(number * TIMES + again, count) for again in range(TIMES)])

    async def _streams(self, number: int, count: int) -> float:
        came: list[list[float]] = [[] for _ in range(count)]

        async def read(index: int) -> None:
            tokens = await prompt(self._model, 100 * number + index, 24)
            async with self._model.stream(tokens, **greedy(TOKENS)) as events:
                async for event in events:
                    if isinstance(event, erllama.TextDelta):
                        came[index] += [time.perf_counter()] * len(event.token_ids)

        await asyncio.gather(*[read(index) for index in range(count)])
        began, ended = max(one[0] for one in came), min(one[-1] for one in came)
        return sum(began < at <= ended for one in came for at in one) / (ended - began)

    async def alone(self, number: int) -> float:
        """Tokens a second of `complete`."""
        prompts = [await prompt(self._model, number * TIMES + again, 24) for again in range(TIMES)]
        done = [await self._model.complete(one, **greedy(TOKENS)) for one in prompts]
        return max(one.stats.tokens_per_second for one in done)

    async def busy(self, number: int) -> float:
        """The same while the event loop is busy half the time."""
        async with busy_loop():
            return await self.alone(number)

    async def first(self, number: int) -> float:
        """Seconds to the first token of a prompt of 24 tokens, the least of five."""
        seen = []
        for again in range(5):
            began = time.perf_counter()
            await self._model.complete(await prompt(self._model, 10 * number + again, 24), **greedy(1))
            seen.append(time.perf_counter() - began)
        return min(seen)

    async def save(self, number: int) -> float:
        """MB a second of the copies that a prompt of `LONG` tokens is saved by."""
        return max([await self._save(number * TIMES + again) for again in range(TIMES)])

    async def _save(self, number: int) -> float:
        before = await self._runtime.cache.counters()
        await self._model.complete(await prompt(self._model, 7000 + number, LONG), **greedy(1))
        await self._runtime.cache.flush()
        after = await self._runtime.cache.counters()
        grew = [after.get(one, 0) - before.get(one, 0) for one in ("saves.bytes.ram", "seconds.pack")]
        return grew[0] / grew[1] / 1e6

    async def restore(self, number: int) -> float:
        """MB a second of a restore from memory, of what `save` with this number has saved."""
        return max([await self._restore(number * TIMES + again) for again in range(TIMES)])

    async def _restore(self, number: int) -> float:
        await self._model.evict()
        tokens = await prompt(self._model, 7000 + number, LONG)
        done = await self._model.complete([*tokens, 100], **greedy(1))
        if done.cache_hit_kind != "partial":
            raise SystemExit(f"nothing was restored: {done.cache_hit_kind}, {done.stats.miss_reason}")
        return done.stats.restored_bytes / done.stats.restore_seconds / 1e6

    async def back(self, number: int) -> float:
        """Seconds from a SIGKILL of the engine's process to the next token of an open stream. A spare has had time to
        be ready."""
        await asyncio.sleep(SETTLE_SECONDS)
        killed = 0.0
        tokens = await prompt(self._model, 9000 + number, 512)
        async with self._model.stream(tokens, **greedy(TOKENS)) as events:
            seen = 0
            async for event in events:
                if not isinstance(event, erllama.TextDelta):
                    continue
                if killed:
                    return time.perf_counter() - killed
                seen += len(event.token_ids)
                if seen >= WRITTEN:
                    pid = self._model.info.pid
                    if pid is None or pid == os.getpid():
                        raise SystemExit("the engine is in this process")
                    os.kill(pid, signal.SIGKILL)
                    killed = time.perf_counter()
        raise SystemExit("the reply ended before the kill was noticed")


def compared(
    thread: Peer, process: Peer, what: str, *given: int, more: bool = True
) -> tuple[float, float, list[float]]:
    """Medians of both, and the ratios in order: above 1 the process is better. With `more` the higher number is."""
    before, _ = thread.ask(what, 0, *given), process.ask(what, 0, *given)  # the first of each is slow
    ratios, threads, processes = list[float](), list[float](), list[float]()
    for number in range(1, ROUNDS + 1):
        ours = process.ask(what, number, *given)
        after = thread.ask(what, number, *given)
        mean = (before + after) / 2
        ratios.append(ours / mean if more else mean / ours)
        threads.append(after)
        processes.append(ours)
        before = after
    return statistics.median(threads), statistics.median(processes), sorted(ratios)


def row(label: str, thread: float, process: float, ratios: list[float]) -> list[str]:
    """A row of the table: the median of the ratios, and the half of them in the middle."""
    half = f"{ratios[len(ratios) // 4]:.3f}-{ratios[-len(ratios) // 4]:.3f}"
    return [label, f"{thread:.0f}", f"{process:.0f}", f"{statistics.median(ratios):.3f}", half]


def cost() -> None:
    """The table of what it costs."""
    one_less = max(1, len(os.sched_getaffinity(0)) - 1)
    rows = []
    with peer(serving, "thread") as thread, peer(serving, "process") as process:
        for label, what, given in (
            ("tokens/s, one reply", "alone", ()), ("tokens/s, one stream", "streams", (1,)),
            (f"tokens/s, {STREAMS} streams", "streams", (STREAMS,)), ("MB/s, saving a prompt", "save", ()),
            ("MB/s, restoring it from memory", "restore", ()),
        ):  # fmt: skip
            rows.append(row(label, *compared(thread, process, what, *given)))
        a, b, _ = compared(thread, process, "first", more=False)
        rows.append(["ms to the first token of 24", f"{a * 1e3:.1f}", f"{b * 1e3:.1f}", f"{(b - a) * 1e3:+.1f} ms", ""])
        for label, what, scale in (("ms to load", "load", 1e3), ("MiB of memory", "memory", 1.0)):
            a, b = thread.ask(what) * scale, process.ask(what) * scale
            rows.append([label, f"{a:.0f}", f"{b:.0f}", f"{b - a:+.0f}", ""])
    with (
        peer(serving, "thread", n_threads=one_less) as thread,
        peer(serving, "process", n_threads=one_less) as process,
    ):
        label = "tokens/s, one reply, the event loop busy half the time"
        rows.append(row(label, *compared(thread, process, "busy")))
    head = ["SmolLM2-135M", "thread", "process", "process against thread (median)", "middle half"]
    publish("isolation", table(head, rows))


def back() -> None:
    """The table of how soon a killed model writes on."""
    rows = []
    for spare in (False, True):
        with peer(serving, "process", spare=spare) as process:
            seen = [process.ask("back", number) for number in range(KILLS)]
            loaded = process.ask("load")
        label = "with a spare" if spare else "without a spare"
        rows.append([label, f"{loaded:.2f}", f"{statistics.median(seen):.2f}", f"{min(seen):.2f}-{max(seen):.2f}"])
    head = ["SmolLM2-135M", "load, s", "SIGKILL to the next token of an open stream, s", "least and most"]
    publish("isolation-back", table(head, rows))


if __name__ == "__main__":
    wanted = sys.argv[1:]
    if not wanted or "cost" in wanted:
        cost()
    if not wanted or "back" in wanted:
        back()
