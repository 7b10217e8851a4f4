"""Texts a second of `embed` against a bare ctypes loop, in alternating rounds; and what a stream loses beside it.

The same texts of 4 to 60 words, the same batches of 512 tokens, the same threads; tokenizing counts in both. Each run
of ours stands between two of the bare loop, and is compared with their mean.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy
from bare_embed import embedding
from fresh import Peer, peer
from report import publish, table

import erllama_py as erllama
from erllama_py.serve.models import fetch

TEXTS, ROUNDS, N_BATCH, N_THREADS = 200, 5, 512, 2
LINE = "the weather is lovely today and a man eats bread in the quiet garden while rain falls on the old town"
STREAM_TOKENS = 120


def texts() -> list[str]:
    """Of several lengths, none like another."""
    words = LINE.split()
    return [" ".join(words[(i + j * (1 + i % 7)) % len(words)] for j in range(4 + i * 37 % 57)) for i in range(TEXTS)]


Run = Callable[[erllama.Model, list[str]], Awaitable[Any]]


async def one_call(model: erllama.Model, given: list[str]) -> Any:
    return (await model.embed(given)).vectors


async def many_calls(model: erllama.Model, given: list[str]) -> Any:
    found = await asyncio.gather(*(model.embed(text) for text in given))
    return numpy.stack([one.vector for one in found])


async def one_by_one(model: erllama.Model, given: list[str]) -> Any:
    return numpy.stack([(await model.embed(text)).vector for text in given])


RUNS: dict[str, Run] = {
    "`embed(texts)`": one_call,
    "a call for each text, all at once": many_calls,
    "a call for each text, one after the other": one_by_one,
}


async def rounds(model: erllama.Model, bare: Peer, given: list[str]) -> list[list[str]]:
    """Lines of the table."""
    ratios: dict[str, list[float]] = {name: [] for name in RUNS}
    before, expected = bare.ask(given)
    reference = numpy.frombuffer(expected, "f4").reshape(TEXTS, -1)
    rates = []
    for _ in range(ROUNDS):
        for name, run in RUNS.items():
            began = time.perf_counter()
            vectors = await run(model, given)
            seconds = time.perf_counter() - began
            if numpy.abs(vectors - reference).max() > 2e-3:
                raise SystemExit("the bare loop and erllama did not compute the same vectors")
            after, _ = bare.ask(given)
            ratios[name].append((before + after) / 2 / seconds)
            rates.append(TEXTS / after)
            before = after
    lines = [["bare ctypes loop", f"{statistics.median(rates):.0f}", "1.00", ""]]
    for name, found in ratios.items():
        median, (low, _, high) = statistics.median(found), statistics.quantiles(found, n=4)
        lines.append([name, f"{statistics.median(rates) * median:.0f}", f"{median:.2f}", f"{low:.2f}-{high:.2f}"])
    return lines


async def gaps(model: erllama.Model) -> list[float]:
    """Milliseconds between the tokens of a stream."""
    times = []
    async with model.stream("Once upon a time", response_tokens=STREAM_TOKENS, ignore_eos=True) as events:
        async for event in events:
            if isinstance(event, erllama.TextDelta):
                times.append(time.perf_counter())
    return [1000 * (b - a) for a, b in itertools.pairwise(times)]


async def beside(model: erllama.Model, given: list[str]) -> list[list[str]]:
    """A stream alone, and beside embeddings of the same model without an end."""
    lines = []
    for name, busy in (("alone", False), ("beside `embed` of the same model", True)):
        work = asyncio.create_task(_forever(model, given)) if busy else None
        await gaps(model)
        found = await gaps(model)
        if work is not None:
            work.cancel()
        cut = statistics.quantiles(found, n=100)
        lines.append(
            [name, f"{1000 / statistics.mean(found):.0f}", f"{cut[49]:.1f}", f"{cut[98]:.1f}", f"{max(found):.1f}"]
        )
    return lines


async def _forever(model: erllama.Model, given: list[str]) -> None:
    while True:
        await model.embed(given)


async def main() -> None:
    path, given = fetch("minilm"), texts()
    sizes: erllama.ContextOptsDict = {"n_ctx": N_BATCH, "n_batch": N_BATCH, "n_seq_max": 1, "n_threads": N_THREADS}
    with peer(embedding, path, N_BATCH, N_THREADS) as bare:
        async with erllama.Runtime() as runtime:
            lines = await rounds(await runtime.load_model({"model_path": path, "context_opts": sizes}), bare, given)
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model(
            {"model_path": fetch("smollm2"), "context_opts": {"n_ctx": 1024, "n_seq_max": 1}}
        )
        stream = await beside(model, given[:50])
    head = [f"{TEXTS} texts, all-MiniLM-L6-v2", "texts/s", "ratio (median)", "middle half of the rounds"]
    other = ["one stream, SmolLM2-135M", "tokens/s", "median gap, ms", "99th percentile", "longest"]
    publish("embeddings", f"{table(head, lines)}\n\n{table(other, stream)}")


if __name__ == "__main__":
    asyncio.run(main())
