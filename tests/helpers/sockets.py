"""A server of its own for WebSockets of `/v1/responses`, and a client that speaks their protocol by hand."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
from websockets.asyncio.client import ClientConnection, connect

import erllama_py as erllama
from erllama_py.serve.app import App, create_app
from erllama_py.serve.core import admission
from erllama_py.serve.core.settings import ListenOpts
from erllama_py.serve.running.server import Server, config_of
from helpers.gated import gated
from helpers.served import STUB

ASK: dict[str, Any] = {
    "type": "response.create", "model": "tiny", "input": "hello", "max_output_tokens": 6, "temperature": 0,
}  # fmt: skip


class At(NamedTuple):
    """A server, what is behind it, and its address."""

    app: App
    server: Server
    url: str

    def connect(self, path: str = "/v1/responses", **given: Any) -> connect:
        """A connection of a client that speaks the protocol by hand."""
        return connect(self.url + path, **given)


@asynccontextmanager
async def serving(runtime: erllama.Runtime, access: Any = None, **options: Any) -> AsyncIterator[At]:
    """A server of its own with these bounds."""
    limits = ListenOpts(port=0, **options)
    app = create_app(runtime, settings=limits, access=access)
    server = Server(config_of(app, limits))
    listening = socket.create_server(("127.0.0.1", 0))
    running = asyncio.create_task(server.serve([listening]))
    try:
        async with asyncio.timeout(30):
            yield At(app, server, f"ws://localhost:{listening.getsockname()[1]}")
    finally:
        server.should_exit = True
        await running


@asynccontextmanager
async def at(**options: Any) -> AsyncIterator[At]:
    """A server over a stub."""
    async with erllama.Runtime() as runtime:
        await runtime.load_model("tiny", STUB)
        async with serving(runtime, **options) as one:
            yield one


@asynccontextmanager
async def standing(**options: Any) -> AsyncIterator[tuple[At, Any, erllama.Model]]:
    """A server over a model whose decodes wait for a gate; it does not wait long for a refusal of theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(admission, "REFUSAL_SECONDS", 0.05)
        async with (
            gated(context={"n_ctx": 4096, "n_seq_max": 4}) as (runtime, model, gate),
            serving(runtime, **options) as one,
        ):
            try:
                yield one, gate, model
            finally:
                gate.gate.set()


async def say(connection: ClientConnection, **event: Any) -> None:
    """Send an event."""
    await connection.send(json.dumps(event))


async def turn(connection: ClientConnection, **more: Any) -> list[Any]:
    """The events of one turn; the last one ends it."""
    await say(connection, **ASK | more)
    return await rest(connection)


async def rest(connection: ClientConnection) -> list[Any]:
    """The events up to one that ends a turn."""
    events = list[Any]()
    while not events or events[-1]["type"] not in ("response.completed", "response.incomplete", "error"):
        events.append(json.loads(await connection.recv()))
    return events
