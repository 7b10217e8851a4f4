"""Clients that leave over a real socket: their request ends within a decode, whatever it was doing."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx
import pytest
from helpers.cache import text
from helpers.gated import Gated, gated
from helpers.runtime import until

import erllama_py as erllama
from erllama_py.serve.app import App, create_app
from erllama_py.serve.core.settings import ListenOpts
from erllama_py.serve.running.server import Server, config_of

pytestmark = pytest.mark.anyio
CONTEXT: dict[str, Any] = {"n_ctx": 4096, "n_seq_max": 1, "n_batch": 64}
PATHS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
    "completions": ("/v1/completions", {"prompt": "hello"}),
    "messages": ("/v1/messages", {"messages": [{"role": "user", "content": "hello"}]}),
    "responses": ("/v1/responses", {"input": "hello", "store": False}),
}


class At(NamedTuple):
    """A server, what is behind it, and a way to ask it by hand."""

    app: App
    server: Server
    model: erllama.Model
    gate: Gated
    address: tuple[str, int]

    async def ask(self, api: str = "chat", **more: Any) -> asyncio.StreamWriter:
        """A request that is sent whole; its client may leave by closing."""
        path, body = PATHS[api]
        # A reply that is drawn may end at once: this one always goes on for a while.
        data = json.dumps({"model": "m", "max_tokens": 1000, "temperature": 0, **body, **more}).encode()
        _, writer = await asyncio.open_connection(*self.address)
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        return writer

    async def left(self, writer: asyncio.StreamWriter) -> None:
        """Its client leaves, and the server has noticed."""
        before = len(self.server.server_state.connections)
        writer.close()
        await until(lambda: len(self.server.server_state.connections) < before)
        for _ in range(20):  # what it tells to the model is on its way
            await asyncio.sleep(0)


@asynccontextmanager
async def serving(**context: Any) -> AsyncIterator[At]:
    """A server over a model for one request at a time, whose decodes wait for a gate."""
    async with gated(context=CONTEXT | context) as (runtime, model, gate):
        app = create_app(runtime)
        server = Server(config_of(app, ListenOpts(port=0)))
        listening = socket.create_server(("127.0.0.1", 0))
        running = asyncio.create_task(server.serve([listening]))
        try:
            async with asyncio.timeout(30):
                yield At(app, server, model, gate, listening.getsockname())
        finally:
            gate.gate.set()
            server.should_exit = True
            await running


@pytest.mark.slow
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("api", PATHS)
async def test_while_it_is_answered(api: str, stream: bool) -> None:
    """At most the decode that is under way is done, and one that was being begun."""
    async with serving() as at:
        writer = await at.ask(api, stream=stream)
        await at.gate.shut(5)
        before = len(at.gate.parts)
        await at.left(writer)
        at.gate.gate.set()
        await until(lambda: at.model.queue_depth == 0 and not len(at.app.service.open))
        assert len(at.gate.parts) <= before + 2


@pytest.mark.slow
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_while_its_prompt_is_read(stream: bool) -> None:
    """The rest of it is not."""
    async with serving() as at:
        messages = [{"role": "user", "content": text(3000)}]
        writer = await at.ask(stream=stream, messages=messages)
        await at.gate.shut(3)
        before = at.gate.computed
        await at.left(writer)
        at.gate.gate.set()
        await until(lambda: at.model.queue_depth == 0 and not len(at.app.service.open))
        assert at.gate.computed <= before + 2 * CONTEXT["n_batch"]


@pytest.mark.slow
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_while_it_waits(stream: bool) -> None:
    """It leaves the queue, and the one before it goes on."""
    async with serving() as at:
        first = await at.ask(stream=True, max_tokens=20)
        await until(lambda: at.model.phase != "idle")
        waiting = await at.ask(stream=stream)
        await until(lambda: at.model.queue_depth == 2)
        await at.left(waiting)
        at.gate.gate.set()
        await until(lambda: at.model.queue_depth == 0)
        await until(lambda: not len(at.app.service.open))
        first.close()
        sequences = {sequence for part in at.gate.parts for sequence in part}
        assert len(sequences) == 1
        assert len(at.gate.parts) < 40


@pytest.mark.slow
async def test_before_its_body_is_there() -> None:
    """Nothing of it reaches the model, and nothing is left open."""
    async with serving() as at:
        _, writer = await asyncio.open_connection(*at.address)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{")
        await until(lambda: len(at.app.service.open) == 1)
        await at.left(writer)
        await until(lambda: not len(at.app.service.open))
        assert at.model.queue_depth == 0


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_more_than_the_model_lets_wait(stream: bool) -> None:
    """Are told when to come again; those that wait are not disturbed."""
    async with gated(context=CONTEXT, scheduler={"max_pending": 1}) as (runtime, model, gate):
        transport = httpx.ASGITransport(app=create_app(runtime), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as client:
            path, body = PATHS["chat"]
            asked = body | {"model": "m", "max_tokens": 4}
            tasks = [asyncio.create_task(client.post(path, json=asked))]
            await until(lambda: model.phase != "idle")
            tasks.append(asyncio.create_task(client.post(path, json=asked)))
            await until(lambda: model.queue_depth == 2)
            refused = await client.post(path, json=asked | {"stream": stream})
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) > 0
            gate.gate.set()
            assert [task.status_code for task in await asyncio.gather(*tasks)] == [200, 200]


@pytest.mark.slow
async def test_more_than_the_server_keeps_open() -> None:
    """The same; what is over makes room."""
    async with serving() as at:
        at.app.service.open.places.most = 2
        writers = [await at.ask(stream=True), await at.ask(stream=True)]
        await until(lambda: len(at.app.service.open) == 2)
        reader, writer = await asyncio.open_connection(*at.address)
        path, body = PATHS["chat"]
        data = json.dumps({"model": "m", "max_tokens": 2, **body}).encode()
        request = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data
        writer.write(request)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 429")
        for one in writers:
            await at.left(one)
        at.gate.gate.set()
        await until(lambda: not len(at.app.service.open))
        writer.close()
