"""What one stream costs on its way out: the bare ctypes loop, `complete`, `stream`, and the same over HTTP.

The application is `docs/examples/fastapi_app.py` under uvicorn, in a process of its own that also answers the library's
parts; the client is a socket in this one, and takes next to nothing of the CPUs. Rounds alternate, and each part of
ours is compared with the mean of the two runs of the bare loop around it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import statistics
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from bare import BareProcess, bare_process
from fresh import Answer, Peer, peer
from report import publish, table

import erllama_py as erllama
from docs.examples.fastapi_app import create_app
from erllama_py.serve.models import fetch

MESSAGES = [{"role": "user", "content": "Write a very long story about the keeper of a lighthouse."}]
TOKENS = 96
OPTIONS: dict[str, Any] = {"response_tokens": TOKENS, "temperature": 0.0}
ROUNDS = 16
N_CTX = 1024
N_THREADS = 2
PORT_SECONDS = 60

Messages = Sequence[Mapping[str, str]]
Run = tuple[float, list[float]]  # seconds in total, and the gaps between two pieces of text


def free_port() -> int:
    """A port that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def application(path: Path, port: int, **config: Any) -> AsyncIterator[Answer]:
    """The application, served on `port`; the answer to `prompt`, `complete` and `stream` comes from its model."""
    context = {"n_ctx": N_CTX, "n_seq_max": 1, "n_threads": N_THREADS, **config.pop("context_opts", {})}
    full: Any = {"model_path": path, "context_opts": context, **config}
    app = create_app(full)
    async with listening(app, port):
        yield _answer(app.state.model)


@asynccontextmanager
async def listening(app: Any, port: int) -> AsyncIterator[None]:
    """An application under uvicorn on `port`, until the block is left."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", access_log=False))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
        await asyncio.sleep(0.05)
    yield
    server.should_exit = True
    await serving


def _answer(model: erllama.Model) -> Answer:

    async def answer(what: str, messages: Messages = MESSAGES) -> Any:
        if what == "prompt":
            return await model.apply_chat_template(messages)
        began = time.perf_counter()
        if what == "complete":
            done = await model.chat(MESSAGES, **OPTIONS)
            return time.perf_counter() - began, done.generated
        times = []
        async with model.stream_chat(MESSAGES, **OPTIONS) as events:
            async for event in events:
                if isinstance(event, erllama.TextDelta):
                    times.append(time.perf_counter())
        return time.perf_counter() - began, gaps_of(times)

    return answer


def gaps_of(times: Sequence[float]) -> list[float]:
    """The seconds between each two that follow each other."""
    return [after - before for before, after in itertools.pairwise(times)]


def over_http(port: int) -> Run:
    """One request to `/chat`, read from the socket as it comes."""
    body = json.dumps({"messages": MESSAGES, "options": OPTIONS}).encode()
    head = f"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    times: list[float] = []
    with socket.create_connection(("127.0.0.1", port), PORT_SECONDS) as connection:
        began, ended = time.perf_counter(), 0.0
        connection.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)
        while data := connection.recv(1 << 16):
            now = time.perf_counter()
            if b'"text"' in data:
                times.append(now)
            if b'"finish_reason"' in data:
                ended = now
    if not ended:
        raise RuntimeError("the stream did not end as it should")
    return ended - began, gaps_of(times)


def main() -> None:
    path, port = fetch("smollm2"), free_port()
    with bare_process(path, N_CTX, N_THREADS) as bare, peer(application, path, port) as ours:
        measure(bare, ours, port)


def measure(bare: BareProcess, ours: Peer, port: int) -> None:
    """Run the rounds and publish the table."""
    prompt = ours.ask("prompt")
    reference = bare.run(prompt, TOKENS)[1]
    if ours.ask("complete")[1] != reference:
        raise SystemExit("the bare loop and erllama did not decode the same tokens")
    parts: dict[str, Callable[[], Run]] = {
        "`complete`": lambda: (ours.ask("complete")[0], []),
        "`stream`": lambda: ours.ask("stream"),
        "over HTTP": lambda: over_http(port),
    }
    ratios: dict[str, list[float]] = {name: [] for name in parts}
    gaps: dict[str, list[float]] = {name: [] for name in ("bare ctypes loop", *parts)}
    rates: list[float] = []
    before = bare.run(prompt, TOKENS)[0]
    for _ in range(ROUNDS):
        for name, part in parts.items():
            seconds, between = part()
            after = bare.run(prompt, TOKENS)[0]
            rates.append(TOKENS / after)
            gaps["bare ctypes loop"].append(after / TOKENS)
            gaps[name].append(statistics.median(between) if between else seconds / TOKENS)
            ratios[name].append((before + after) / 2 / seconds)
            before = after
    rate = statistics.median(rates)
    lines = []
    for name, found in gaps.items():
        ratio = ratios.get(name, [1.0, 1.0])
        low, middle, high = statistics.quantiles(ratio, n=4)
        of_stream = statistics.median(found) / statistics.median(gaps["`stream`"])
        spread = f"{low:.3f}-{high:.3f}" if name in ratios else ""
        gap = f"{statistics.median(found) * 1000:.2f}"
        lines.append([name, f"{rate * middle:.0f}", f"{middle:.3f}", spread, gap, f"{of_stream:.3f}"])
    head = [
        "one greedy stream, SmolLM2-135M", "tokens/s", "ratio (median)", "middle half of the rounds", "median gap, ms",
        "gap against `stream`",
    ]  # fmt: skip
    publish("http_stream", table(head, lines))


if __name__ == "__main__":
    main()
