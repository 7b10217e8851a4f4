"""Streams side by side, against the bare loop that decodes a batch of as many, and llama-server where there is one.

The clock runs while all of them generate: from the moment when the last one has its first token until the first one
ends. Each round of ours stands between two of the bare loop's, in another process, and is compared with their mean.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from bare_batch import batching
from fresh import Peer, peer
from opened import N_CTX, N_THREADS, prompt
from plot import Points, chart
from report import PAGE, publish, table
from yardstick import Server, server

import erllama_py as erllama
from erllama_py.serve.models import fetch

STREAMS = (1, 2, 4, 8, 16)
PROMPT_TOKENS, TOKENS = 24, 96  # together less than what is saved
ROUNDS = 10
SHORTEST = TOKENS // 2  # a reply that ends before says little

Reply = Callable[[Sequence[int]], AsyncIterator[int]]
"""For each piece of a reply to these tokens, how many tokens it has."""


class Rates(NamedTuple):
    """Tokens a second in total; ratios are to the bare loop, round by round."""

    bare: list[float]
    ours: list[float]
    ratios: list[float]
    servers: list[float]
    server_ratios: list[float]


async def rate(prompts: Sequence[Sequence[int]], reply: Reply) -> float | None:
    """Tokens a second while all reply; None if one of them ended early."""
    came: list[list[tuple[float, int]]] = [[] for _ in prompts]

    async def read(index: int) -> None:
        async for count in reply(prompts[index]):
            if count:
                came[index].append((time.perf_counter(), count))

    await asyncio.gather(*[read(index) for index in range(len(prompts))])
    began, ended = max(one[0][0] for one in came), min(one[-1][0] for one in came)
    if min(sum(count for _, count in one) for one in came) < SHORTEST:
        return None
    return sum(count for one in came for at, count in one if began < at <= ended) / (ended - began)


async def streams(n_streams: int) -> Rates:
    """All rounds with so many streams."""
    path, rates = fetch("smollm2"), Rates([], [], [], [], [])
    context: erllama.ContextOptsDict = {"n_ctx": N_CTX, "n_seq_max": n_streams, "n_threads": N_THREADS}
    with peer(batching, path, N_CTX, N_THREADS, n_streams) as bare, server(path, N_CTX, N_THREADS, n_streams) as other:
        async with erllama.Runtime() as runtime:
            model = await runtime.load_model("streams", {"model_path": path, "context_opts": context})
            await rounds(model, bare, other, n_streams, rates)
    return rates


async def rounds(model: erllama.Model, bare: Peer, other: Server | None, n_streams: int, rates: Rates) -> None:
    """Fill in the rates."""

    async def ours(tokens: Sequence[int]) -> AsyncIterator[int]:
        async with model.stream(tokens, response_tokens=TOKENS, temperature=0.0) as events:
            async for event in events:
                if isinstance(event, erllama.TextDelta):
                    yield len(event.token_ids)

    before, number = 0.0, 0
    while len(rates.ours) < ROUNDS:
        numbers = range(number * n_streams, (number + 1) * n_streams)
        prompts = [await prompt(model, one, PROMPT_TOKENS) for one in numbers]
        before = before or bare.ask(prompts, TOKENS - 1)
        number += 1
        mine = await rate(prompts, ours)
        after = bare.ask(prompts, TOKENS - 1)
        if number > 1 and mine is not None:  # the first decodes of a process are slow
            rates.bare.append(after)
            rates.ours.append(mine)
            rates.ratios.append(2 * mine / (before + after))
        before = after
        if other is not None and number > 1:
            theirs = await rate(prompts, lambda tokens: other.stream(tokens, TOKENS))
            before = bare.ask(prompts, TOKENS - 1)
            if theirs is not None:
                rates.servers.append(theirs)
                rates.server_ratios.append(2 * theirs / (after + before))


def line(n_streams: int, rates: Rates) -> list[str]:
    """One row of the table."""
    low, _, high = statistics.quantiles(rates.ratios, n=4)
    cells = [
        str(n_streams), f"{statistics.median(rates.bare):.0f}", f"{statistics.median(rates.ours):.0f}",
        f"{statistics.median(rates.ratios):.3f}", f"{low:.3f}-{high:.3f}",
    ]  # fmt: skip
    if rates.servers:
        cells += [f"{statistics.median(rates.servers):.0f}", f"{statistics.median(rates.server_ratios):.3f}"]
    return cells


def draw(measured: dict[int, Rates]) -> None:
    """The plot: what comes of all streams together."""

    def points(pick: Callable[[Rates], Sequence[float]]) -> Points:
        return [(float(number), statistics.median(pick(rates))) for number, rates in measured.items() if pick(rates)]

    series = {"bare loop": points(lambda rates: rates.bare), "erllama": points(lambda rates: rates.ours)}
    if theirs := points(lambda rates: rates.servers):
        series["llama-server"] = theirs
    title = "Streams side by side, SmolLM2-135M: tokens a second of all together"
    chart(PAGE.parent / "benchmarks-streams.svg", title, "streams", "tokens/s", series, from_zero=True)


def main() -> None:
    measured = {number: asyncio.run(streams(number)) for number in STREAMS}
    head = [
        "streams of SmolLM2-135M; tokens/s in total",
        "bare loop",
        "ours",
        "ratio (median)",
        "middle half of the rounds",
    ]
    if any(rates.servers for rates in measured.values()):
        head += ["llama-server", "its ratio"]
    draw(measured)
    picture = "![Tokens a second of all streams together, by their number](benchmarks-streams.svg)"
    publish("concurrency", table(head, [line(*one) for one in measured.items()]) + "\n\n" + picture)


if __name__ == "__main__":
    main()
