"""What HTTP costs: the server's OpenAI API against the library's streams, one and eight at a time, and a warm turn.

The server, `create_app` under uvicorn with its own loop and parser, has a process of its own, which also answers the
library's parts, so that both stand on the same threads. The client is in this process and takes next to nothing of the
CPUs; rounds take turns. The processor time of the loop's thread says what Python's share of a token is. Where the
variable `LLAMA_SERVER` names its executable, the same client asks llama-server the same.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from fresh import Answer, Peer, peer
from http_stream import free_port, listening
from report import publish, table
from yardstick import Server, server

import erllama_py as erllama
from erllama_py.serve.app import create_app
from erllama_py.serve.models import fetch

TOKENS = 96
ROUNDS, EIGHT_ROUNDS, TURNS = 16, 6, 48
STREAMS = 8
N_CTX, N_SEQ_MAX, N_THREADS = 8192, 8, 2
FACTS = "The lighthouse stands on a hill above the harbour, and its keeper counts the ships. " * 60  # 1,000 tokens

Messages = list[dict[str, str]]


class Run(NamedTuple):
    """Some streams side by side: the seconds that all of them took, and the gaps between two pieces of each."""

    seconds: float
    first: float  # until the first piece of the first stream
    gaps: list[float]
    tokens: int


def asked(number: int) -> Messages:
    """A conversation like no other, so that nothing is kept of it."""
    return [{"role": "user", "content": f"Write a very long story about keeper {number} of a lighthouse."}]


def turn(number: int) -> Messages:
    """Another question about what has been read."""
    return [{"role": "system", "content": FACTS}, {"role": "user", "content": f"How many ships are {number} ships?"}]


Pieces = Callable[[Messages, int], AsyncIterator[int]]


async def run(pieces: Pieces, conversations: Sequence[Messages], count: int) -> Run:
    """Ask for all of them at once."""
    began, times = time.perf_counter(), [list[float]() for _ in conversations]
    tokens = 0

    async def read(place: int) -> None:
        nonlocal tokens
        async for number in pieces(conversations[place], count):
            times[place].append(time.perf_counter())
            tokens += number

    await asyncio.gather(*(read(place) for place in range(len(conversations))))
    seconds = time.perf_counter() - began
    gaps = [after - before for one in times for before, after in itertools.pairwise(one)]
    return Run(seconds, times[0][0] - began, gaps, tokens)


@asynccontextmanager
async def serving(path: Path, port: int) -> AsyncIterator[Answer]:
    """The server, and the library beside it in the same process."""
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(erllama.Runtime())
        contexts: Any = {"n_ctx": N_CTX, "n_seq_max": N_SEQ_MAX, "n_threads": N_THREADS}
        model = await runtime.load_model("model", {"model_path": path, "context_opts": contexts})
        await stack.enter_async_context(listening(create_app(runtime), port))

        async def pieces(messages: Messages, count: int) -> AsyncIterator[int]:
            async with model.stream_chat(messages, response_tokens=count, temperature=0.0, ignore_eos=True) as events:
                async for event in events:
                    if isinstance(event, erllama.TextDelta):
                        yield len(event.token_ids)

        async def answer(what: str, *given: Any) -> Any:
            if what == "cpu":
                return time.thread_time()
            return await run(pieces, *given)

        yield answer


class Chunks(asyncio.Protocol):
    """What comes off the socket: for each read, how many chunks have text. As cheap as a client can be."""

    def __init__(self) -> None:
        self.read: asyncio.Queue[int] = asyncio.Queue()  # 0 at the end
        self._refused = True

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._refused = self._refused and b" 200 " not in data[:16]
        if number := data.count(b'"content":"') - data.count(b'"content":""'):
            self.read.put_nowait(-1 if self._refused else number)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.read.put_nowait(-1 if self._refused else 0)


def http_pieces(port: int, name: str | None = None) -> Pieces:
    """How any client asks; with a `name` for a stream that can be taken up again."""

    async def pieces(messages: Messages, count: int) -> AsyncIterator[int]:
        asks = {"model": "model", "messages": messages, "max_tokens": count, "temperature": 0.0, "ignore_eos": True}
        body = msgspec.json.encode(asks | {"stream": True})
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"X-Conversation-Id: {name}\r\n" if name else ""
        loop = asyncio.get_running_loop()
        writing, chunks = await loop.create_connection(Chunks, "127.0.0.1", port)
        try:
            writing.write(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            while number := await chunks.read.get():
                if number < 0:
                    raise RuntimeError("the server refused the request")
                yield number
        finally:
            writing.close()

    return pieces


class Way(NamedTuple):
    """One way to ask."""

    run: Callable[[Sequence[Messages], int], Awaitable[Run]]
    cpu: Callable[[], float]


def ways(ours: Peer, port: int, other: Server | None) -> dict[str, Way]:
    """The library first: all others are compared with it."""

    async def library(conversations: Sequence[Messages], count: int) -> Run:
        found: Run = await asyncio.to_thread(ours.ask, "run", conversations, count)
        return found

    def cpu() -> float:
        return float(ours.ask("cpu"))

    found = {"the library": Way(library, cpu)}
    ports = {"over HTTP": port} | ({"llama-server": other.port} if other else {})
    for name, at in ports.items():
        pieces = http_pieces(at)

        async def over(conversations: Sequence[Messages], count: int, pieces: Pieces = pieces) -> Run:
            return await run(pieces, conversations, count)

        found[name] = Way(over, cpu if at == port else lambda: 0.0)
    return found


class Figures:
    """What came of all rounds, by way."""

    def __init__(self, names: Sequence[str]) -> None:
        self.rates: dict[str, list[float]] = {name: [] for name in names}
        self.gaps: dict[str, list[float]] = {name: [] for name in names}
        self.firsts: dict[str, list[float]] = {name: [] for name in names}
        self.cpus: dict[str, list[float]] = {name: [] for name in names}
        self.eights: dict[str, list[float]] = {name: [] for name in names}


async def measure(asking: dict[str, Way]) -> Figures:
    """All rounds, by turns; the order changes from one to the next."""
    figures, numbers = Figures(list(asking)), itertools.count()
    for round_ in range(ROUNDS + 1):
        for name, way in _turned(asking, round_):
            before = way.cpu()
            one = await way.run([asked(next(numbers))], TOKENS)
            if round_:  # the first warms up
                figures.cpus[name].append((way.cpu() - before) / TOKENS)
                figures.rates[name].append((TOKENS - 1) / (one.seconds - one.first))
                figures.gaps[name].append(statistics.median(one.gaps))
    for round_ in range(EIGHT_ROUNDS + 1):
        for name, way in _turned(asking, round_):
            many = await way.run([asked(next(numbers)) for _ in range(STREAMS)], TOKENS)
            if round_:
                figures.eights[name].append(STREAMS * TOKENS / many.seconds)
    for round_ in range(TURNS + 1):
        for name, way in _turned(asking, round_):
            warm = await way.run([turn(next(numbers))], 2)
            if round_:
                figures.firsts[name].append(warm.first)
    return figures


def _turned(asking: dict[str, Way], round_: int) -> list[tuple[str, Way]]:
    found = list(asking.items())
    return found if round_ % 2 else found[::-1]


def lines(figures: Figures) -> list[list[str]]:
    """A line for each way; ratios are medians of the rounds."""
    base = next(iter(figures.rates))

    def ratio(values: dict[str, list[float]], name: str) -> str:
        pairs = zip(values[name], values[base], strict=True)
        return f"{statistics.median(values[name]):.0f} ({statistics.median(one / other for one, other in pairs):.3f})"

    def line(name: str) -> list[str]:
        gap, plain = statistics.median(figures.gaps[name]), statistics.median(figures.gaps[base])
        first, pairs = (
            statistics.median(figures.firsts[name]),
            zip(figures.firsts[name], figures.firsts[base], strict=True),
        )
        later = statistics.median(one - other for one, other in pairs)
        cpu = statistics.median(figures.cpus[name])
        return [
            name, ratio(figures.rates, name), f"{gap * 1000:.2f} ({gap / plain:.3f})", ratio(figures.eights, name),
            f"{first * 1000:.1f} ({later * 1000:+.1f})", f"{cpu * 1e6:.0f}" if cpu else "",
        ]  # fmt: skip

    return [line(name) for name in figures.rates]


def main() -> None:
    path, port = Path(fetch("smollm2")), free_port()
    with peer(serving, path, port) as ours, server(path, N_CTX, N_THREADS, N_SEQ_MAX) as other:
        figures = asyncio.run(measure(ways(ours, port, other)))
    head = [
        "SmolLM2-135M (against the library)", "one stream, tokens/s", "its median gap, ms", "eight streams, tokens/s",
        "first token of a warm turn, ms", "processor time of the loop, µs a token",
    ]  # fmt: skip
    publish("serving", table(head, lines(figures)))


if __name__ == "__main__":
    main()
