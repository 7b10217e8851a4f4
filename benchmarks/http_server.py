"""The example application beside llama-server, both over HTTP: one stream, and a long prompt beside a stream.

Only where the variable `LLAMA_SERVER` names its executable. Each server has a process of its own and is asked by the
same client, in this one; rounds take turns. The application runs twice: with the default `max_stall_ms`, and with a
tenth of the gap that the prompt makes in a stream of llama-server.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import statistics
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple

from fresh import Peer, peer
from http_stream import MESSAGES, N_THREADS, Messages, application, free_port
from opened import WORDS
from report import publish, table
from yardstick import Server, server

from erllama_py.serve.models import fetch

TOKENS = 96
STREAMS, PROMPTS = 16, 4  # rounds
STREAM_TOKENS, WARM = 500, 12  # a stream is at work from its twelfth token on
LONG_WORDS = 1900  # 2,800 tokens
N_CTX, N_SEQ_MAX = 8192, 2
STALL_MS = 370

Request = Callable[[Messages, int], AsyncGenerator[int, None]]  # yields for each piece


def asker(port: int) -> Request:
    """How the application is asked."""

    async def ask(messages: Messages, count: int) -> AsyncGenerator[int, None]:
        options: dict[str, Any] = {"response_tokens": count, "temperature": 0.0}
        body = json.dumps({"messages": messages, "options": options}).encode()
        head = "POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            async for line in reader:  # the sizes of chunks stand between the events
                if line.startswith(b'data: {"text"'):
                    yield 1
        finally:
            writer.close()

    return ask


def server_asker(other: Server, ours: Peer) -> Request:
    """How llama-server is asked: for the same tokens."""

    async def ask(messages: Messages, count: int) -> AsyncGenerator[int, None]:
        tokens = await asyncio.to_thread(ours.ask, "prompt", messages)
        async for piece in other.stream(tokens, count):
            yield piece

    return ask


class Beside(NamedTuple):
    """A prompt beside a stream: seconds until its first token, and the longest gap that it made in the stream."""

    first: float
    gap: float


async def times_of(pieces: AsyncGenerator[int, None]) -> list[float]:
    """When each piece came, in seconds from the first on."""
    times = [time.perf_counter() async for _ in pieces]
    return [one - times[0] for one in times]


async def first_of(pieces: AsyncGenerator[int, None]) -> float:
    """Seconds until the first piece; the rest is left."""
    began = time.perf_counter()
    async with aclosing(pieces) as coming:
        async for _ in coming:
            return time.perf_counter() - began
    raise RuntimeError("no reply")


def long_prompt(number: int) -> Messages:
    """A prompt like no other."""
    return [{"role": "user", "content": " ".join(random.Random(number).choices(WORDS, k=LONG_WORDS))}]


async def beside(ask: Request, number: int) -> Beside:
    """Send a long prompt when a stream is at work."""
    times, warm, done = list[float](), asyncio.Event(), asyncio.Event()

    async def read() -> None:
        async with aclosing(ask(MESSAGES, STREAM_TOKENS)) as pieces:
            async for _ in pieces:
                times.append(time.perf_counter())
                if len(times) == WARM:
                    warm.set()
                if done.is_set():
                    return

    reading = asyncio.create_task(read())
    await warm.wait()
    seconds = await first_of(ask(long_prompt(number), 1))
    done.set()
    await reading
    gaps = [after - before for before, after in itertools.pairwise(times[WARM - 2 :])]
    return Beside(seconds, max(gaps))


async def measure(servers: dict[str, Request]) -> str:
    """All rounds, by turns; the table."""
    rates: dict[str, list[float]] = {name: [] for name in servers}
    gaps: dict[str, list[float]] = {name: [] for name in servers}
    firsts: dict[str, list[float]] = {name: [] for name in servers}
    besides: dict[str, list[Beside]] = {name: [] for name in servers}
    for number in range(STREAMS + 1):
        for name, ask in servers.items():
            times = await times_of(ask(MESSAGES, TOKENS))
            if number:
                rates[name].append((len(times) - 1) / times[-1])
                gaps[name].append(statistics.median(after - before for before, after in itertools.pairwise(times)))
    for number in range(PROMPTS):
        for name, ask in servers.items():
            firsts[name].append(await first_of(ask(long_prompt(2 * number), 1)))
            besides[name].append(await beside(ask, 2 * number + 1))
    last = list(servers)[-1]

    def ratio(values: dict[str, list[float]], name: str) -> str:
        ratios = [one / other for one, other in zip(values[name], values[last], strict=True)]
        return f" ({statistics.median(ratios):.2f})"

    def line(name: str) -> list[str]:
        waits = {one: [found.first for found in besides[one]] for one in servers}
        return [
            name, f"{statistics.median(rates[name]):.0f}{ratio(rates, name)}",
            f"{statistics.median(gaps[name]) * 1000:.2f}{ratio(gaps, name)}",
            f"{statistics.median(firsts[name]):.2f}{ratio(firsts, name)}",
            f"{statistics.median(waits[name]):.2f}{ratio(waits, name)}",
            f"{max(one.gap for one in besides[name]):.2f}",
        ]  # fmt: skip

    head = [
        "SmolLM2-135M over HTTP (against llama-server)", "one stream, tokens/s", "median gap, ms",
        "a prompt of 2,800 tokens: first token alone, s", "beside one stream, s", "longest gap of that stream, s",
    ]  # fmt: skip
    return table(head, [line(name) for name in servers])


def main() -> None:
    if "LLAMA_SERVER" not in os.environ:
        print("LLAMA_SERVER does not name an executable of llama-server: nothing is compared")
        return
    path, ports = Path(fetch("smollm2")), (free_port(), free_port())
    context = {"n_ctx": N_CTX, "n_seq_max": N_SEQ_MAX}
    stalls: Sequence[dict[str, int]] = ({}, {"max_stall_ms": STALL_MS})
    with (
        peer(application, path, ports[0], context_opts=context, scheduler=stalls[0]) as ours,
        peer(application, path, ports[1], context_opts=context, scheduler=stalls[1]),
        server(path, N_CTX, N_THREADS, N_SEQ_MAX) as other,
    ):
        assert other is not None
        servers = {
            "the application": asker(ports[0]), f"with `max_stall_ms` {STALL_MS}": asker(ports[1]),
            "llama-server": server_asker(other, ours),
        }  # fmt: skip
        publish("http_server", asyncio.run(measure(servers)))


if __name__ == "__main__":
    main()
