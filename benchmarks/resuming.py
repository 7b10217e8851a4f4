"""What streams cost that can be taken up again: the same streams with the header `X-Conversation-Id` and without it.

Server and client are those of `serving`. A stream that lasts gives its events numbers and keeps them; what it keeps is
counted where the server counts it. A stream is taken up by a client that has nothing of it: it gets all, as fast as it
reads, and nothing is computed.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from fresh import Answer, Peer, peer
from http_stream import free_port, listening
from report import publish, table
from serving import N_CTX, N_SEQ_MAX, N_THREADS, STREAMS, TOKENS, Pieces, Run, asked, http_pieces, run

import erllama_py as erllama
from erllama_py.serve.app import create_app
from erllama_py.serve.core.settings import ServerOpts
from erllama_py.serve.models import fetch

ROUNDS, EIGHT_ROUNDS, TAKEN = 16, 6, 48
WAYS = ("without", "with the header")


@asynccontextmanager
async def keeping(path: Path, port: int) -> AsyncIterator[Answer]:
    """A server that says what it keeps, and how long its loop's thread has worked."""
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(erllama.Runtime())
        contexts: Any = {"n_ctx": N_CTX, "n_seq_max": N_SEQ_MAX, "n_threads": N_THREADS}
        await runtime.load_model("model", {"model_path": path, "context_opts": contexts})
        app = create_app(runtime, settings=ServerOpts(max_resumable=ROUNDS + STREAMS * EIGHT_ROUNDS + TAKEN))
        await stack.enter_async_context(listening(app, port))

        async def answer(what: str) -> float:
            return time.thread_time() if what == "cpu" else app.service.lasting.nbytes

        yield answer


async def take_up(port: int, name: str) -> float:
    """The seconds that a whole stream takes which is over."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET /v1/stream/{name} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        data = await reader.read(-1)
        if b"[DONE]" not in data:
            raise RuntimeError("the stream is not there, or not whole")
        return time.perf_counter() - began
    finally:
        writer.close()


class Figures:
    """What came of all rounds, by way."""

    def __init__(self) -> None:
        self.rates: dict[str, list[float]] = {name: [] for name in WAYS}
        self.cpus: dict[str, list[float]] = {name: [] for name in WAYS}
        self.eights: dict[str, list[float]] = {name: [] for name in WAYS}
        self.taken = list[float]()
        self.wholes = list[float]()
        self.kept = 0.0


async def measure(ours: Peer, port: int) -> Figures:
    """All rounds, by turns; the order changes from one to the next."""
    figures, numbers, names = Figures(), itertools.count(), (f"stream-{number}" for number in itertools.count())
    last = ""

    def pieces(way: str) -> Pieces:
        nonlocal last
        last = next(names) if way == WAYS[1] else last
        return http_pieces(port, last if way == WAYS[1] else None)

    async def side_by_side(way: str, count: int) -> Run:
        runs = await asyncio.gather(*(run(pieces(way), [asked(next(numbers))], TOKENS) for _ in range(count)))
        return max(runs, key=lambda one: one.seconds)

    for round_ in range(ROUNDS + 1):
        for way in WAYS if round_ % 2 else WAYS[::-1]:
            cpu, kept = ours.ask("cpu"), ours.ask("kept")
            one = await side_by_side(way, 1)
            if round_:  # the first warms up
                figures.rates[way].append((TOKENS - 1) / (one.seconds - one.first))
                figures.cpus[way].append((ours.ask("cpu") - cpu) / TOKENS)
                figures.kept = max(figures.kept, (ours.ask("kept") - kept) / TOKENS)
                figures.wholes.append(one.seconds)
    for round_ in range(EIGHT_ROUNDS + 1):
        for way in WAYS if round_ % 2 else WAYS[::-1]:
            many = await side_by_side(way, STREAMS)
            if round_:
                figures.eights[way].append(STREAMS * TOKENS / many.seconds)
    figures.taken = [await take_up(port, last) for _ in range(TAKEN)]
    return figures


def lines(figures: Figures) -> list[list[str]]:
    """A line for each way; ratios are medians of the rounds."""

    def ratio(values: dict[str, list[float]], way: str) -> str:
        pairs = zip(values[way], values[WAYS[0]], strict=True)
        return f"{statistics.median(one / other for one, other in pairs):.3f}"

    shown = []
    for way in WAYS:
        rate, cpu = statistics.median(figures.rates[way]), statistics.median(figures.cpus[way])
        kept = f"{figures.kept:.0f}" if way == WAYS[1] else "0"
        again = statistics.median(figures.taken) / statistics.median(figures.wholes)
        shown.append([
            way, f"{rate:.0f} ({ratio(figures.rates, way)})", ratio(figures.eights, way),
            f"{cpu * 1e6:.0f} ({ratio(figures.cpus, way)})", kept, f"{again:.4f}" if way == WAYS[1] else "",
        ])  # fmt: skip
    return shown


def main() -> None:
    path, port = Path(fetch("smollm2")), free_port()
    with peer(keeping, path, port) as ours:
        figures = asyncio.run(measure(ours, port))
    head = [
        "SmolLM2-135M over HTTP (against without)", "one stream, tokens/s", "eight streams, tokens/s",
        "processor time of the loop, µs a token", "bytes kept a token", "taken up whole, against its own time",
    ]  # fmt: skip
    publish("resuming", table(head, lines(figures)))


if __name__ == "__main__":
    main()
