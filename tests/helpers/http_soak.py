"""Many clients of one server, over sockets, a fifth of whom leave at random: the soak of the server.

`HttpSoak.round` has so many clients ask for as long as `more` says; then everybody has left, and `at_rest` holds that
nothing of them is left: no request, task, sequence, cell, connection, file or thread. `done` counts what came of them.
An answer is whole, or says that the server is busy; anything else is kept in `problems`. Owns its clients; runs in the
loop of the server.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

import erllama_py as erllama
from erllama_py.serve.app import App, create_app
from erllama_py.serve.core.settings import ListenOpts, ServerOpts
from erllama_py.serve.operations.meters import RequestMeters
from erllama_py.serve.running.server import Server, config_of
from helpers.runtime import until
from helpers.tiny_gguf import tiny_gguf

LEAVING = 0.2
MODEL: dict[str, Any] = {
    "context_opts": {"n_ctx": 4096, "n_batch": 256, "n_seq_max": 8, "n_threads": 1},
    "policy": {"min_tokens": 16, "boundary_align_tokens": 32, "boundary_trim_tokens": 4, "continued_interval": 64},
    "scheduler": {"max_pending": 64},
}
SETTINGS = ServerOpts(max_open=160, max_stored_bytes=1 << 20)
# Soon full, so that memory is flat from then on.
MEMORY: dict[str, Any] = {"ram_quota_bytes": 1 << 20, "save_buffer_bytes": 8 << 20}
WORDS = ["gravity", "pulls", "the", "moon", "around", "the", "earth", "and", "every", "tide", "rises", "with", "it"]
BUSY = {429, 529}  # the second as Anthropic's API says it
# What ends a stream, by its path.
ENDS = {
    "/v1/chat/completions": (b"[DONE]",), "/v1/completions": (b"[DONE]",), "/v1/messages": (b"message_stop",),
    "/v1/responses": (b"response.completed", b"response.incomplete"),
}  # fmt: skip


class Held(NamedTuple):
    """What a process holds; of threads those that are not of the callers' pool, which grows up to its bound."""

    tasks: int
    files: int
    threads: int


@asynccontextmanager
async def soaked(folder: Path, seed: int = 0) -> AsyncIterator[HttpSoak]:
    """A soak of a server over a tiny model of its own; `folder` is for its file."""
    async with erllama.Runtime(**MEMORY) as runtime:
        config: Any = MODEL | {"model_path": tiny_gguf("dense", folder)}
        model = await runtime.load_model("tiny", config)
        app = create_app(runtime, settings=SETTINGS)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            server = Server(config_of(app, ListenOpts()))
            serving = asyncio.create_task(server.serve([listening]))
            try:
                yield HttpSoak(app, model, listening.getsockname()[1], seed)
            finally:
                server.should_exit = True
                await serving


class HttpSoak:
    """See the module."""

    def __init__(self, app: App, model: erllama.Model, port: int, seed: int) -> None:
        self.app, self.model = app, model
        self.done: Counter[str] = Counter()
        self.problems: list[str] = []
        self._port = port
        self._random = random.Random(seed)

    async def round(self, clients: int, more: Callable[[], bool]) -> None:
        """So many clients, each of which asks, reads or leaves, and asks again."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(clients):
                tasks.create_task(self._client(number, more))

    async def at_rest(self) -> Held:
        """Once nothing is under way: what is held."""
        await until(lambda: len(self.app.service.open) == 0 and self.model.queue_depth == 0)
        meters = self.app.service.meters
        assert isinstance(meters, RequestMeters)
        assert not any(meters.open.values())
        await self.model.evict()
        await self.app.service.runtime.cache.flush()
        counters = self.model.counters
        assert (counters.active, counters.waiting, counters.parked, counters.embedding) == (0, 0, 0, 0)
        assert (counters.cells_in_use, counters.sequences_kept) == (0, 0)
        assert counters.requests == sum(counters.finished.values()) + counters.failed + counters.refused
        gc.collect()
        process = psutil.Process()
        pooled = sum(thread.name.startswith("caller") for thread in threading.enumerate())
        return Held(len(asyncio.all_tasks()), process.num_fds(), process.num_threads() - pooled)

    # --- a client ------------------------------------------------------------------------------------------------

    async def _client(self, number: int, more: Callable[[], bool]) -> None:
        said: list[dict[str, str]] = []
        while more():
            if len(said) > 6 or not said:
                said = [{"role": "user", "content": f"{self._words(40)} {number}"}]
            path, body = self._request(said, f"client {number}")
            answer = await self._ask(path, body)
            if answer is None:
                self.done["left"] += 1
                continue
            status, data = answer
            self.done[str(status)] += 1
            if status in BUSY:
                await asyncio.sleep(0.02)  # a client that heeds `Retry-After` would wait longer
            elif status != (400 if "wrong" in body else 200):
                self.problems.append(f"{path} {status}: {data[-300:]!r}")
            elif status == 200 and body.get("stream"):
                self._check_end(path, data)
                said += [{"role": "assistant", "content": "so it is"}, {"role": "user", "content": self._words(5)}]

    def _check_end(self, path: str, data: bytes) -> None:
        self.done["streams"] += 1
        if not any(end in data[-4_000:] for end in ENDS[path]):
            self.problems.append(f"{path}: a stream ends with {data[-300:]!r}")

    def _request(self, said: list[dict[str, str]], key: str) -> tuple[str, dict[str, Any]]:
        pick = self._random
        path = pick.choice((*ENDS, "/v1/chat/completions", "/v1/chat/completions", "/v1/embeddings"))
        body: dict[str, Any] = {"model": "tiny", "max_tokens": pick.randrange(1, 33), "stream": pick.random() < 0.7}
        match path:
            case "/v1/embeddings":
                return path, {"model": "tiny", "input": [self._words(8), self._words(3)]}
            case "/v1/completions":
                body["prompt"] = said[-1]["content"]
            case "/v1/responses":
                body |= {"input": said, "max_output_tokens": 16, "store": pick.random() < 0.5}
            case _:
                body["messages"] = said
        if path == "/v1/chat/completions" and pick.random() < 0.5:
            body["prompt_cache_key"] = key
        if pick.random() < 0.05:
            body |= {"wrong": True, "model": 7}
        return path, body

    async def _ask(self, path: str, body: dict[str, Any]) -> tuple[int, bytes] | None:
        """The status and all that follows; None for a client that leaves."""
        pick, text = self._random, json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(f"{head}content-length: {len(text)}\r\n\r\n".encode() + text)
            if pick.random() < LEAVING:
                await self._read_some(reader, pick.choice((0, 0, 1, 300, 1_000)))
                return None
            data = await reader.read()
        finally:
            writer.transport.abort()
        return int(data[9:12] or b"0"), data

    async def _read_some(self, reader: asyncio.StreamReader, amount: int) -> None:
        if amount == 0:  # at once, or in the middle of the prompt
            for _ in range(self._random.choice((0, 3, 50))):
                await asyncio.sleep(0)
        while amount > 0 and (data := await reader.read(amount)):
            amount -= len(data)

    def _words(self, count: int) -> str:
        return " ".join(self._random.choice(WORDS) for _ in range(count))
