"""An application behind a real server on the loopback: for what only sockets show, such as a client that leaves."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp


@asynccontextmanager
async def listening(app: ASGIApp, port: int = 0) -> AsyncIterator[str]:
    """The address of a server that runs in this loop."""
    with socket.create_server(("127.0.0.1", port)) as listener:  # connections wait there until the server has begun
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=1))
        task = asyncio.create_task(server._serve([listener]))  # `serve` would take the signals of the process
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task
