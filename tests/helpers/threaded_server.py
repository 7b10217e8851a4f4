"""A server in a thread of this process, so that commands, which block, can ask it over a socket of their own."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from erllama_py.serve.app import create_app
from erllama_py.serve.config import check_tables

STUB: dict[str, Any] = {"name": "tiny", "backend": "stub", "context_opts": {"n_ctx": 2048, "n_seq_max": 4}}
PATIENCE = 30.0


class _Announced(uvicorn.Server):
    """Says when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextmanager
def threaded(
    app: ASGIApp, *, listener: socket.socket | None = None, tls: tuple[str, str] | None = None,
    lifespan: Literal["on", "off"] = "on",
) -> Iterator[str]:  # fmt: skip
    """The address of an application that is served until the end of the block; `tls` is a certificate and its key."""
    cert, key = tls or (None, None)
    config = uvicorn.Config(
        app, lifespan=lifespan, log_config=None, timeout_graceful_shutdown=1, ssl_certfile=cert, ssl_keyfile=key
    )
    server = _Announced(config)
    with closing(listener or socket.create_server(("127.0.0.1", 0))) as bound:
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        try:
            assert server.ready.wait(PATIENCE), "the server does not start"
            scheme = "http" if tls is None else "https"
            name = bound.getsockname()
            yield name if isinstance(name, str) else f"{scheme}://127.0.0.1:{name[1]}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


@contextmanager
def served_here(folder: Path, *, model: Mapping[str, Any] | None = None, **tables: Any) -> Iterator[str]:
    """The address of a server with one stub model; `tables` are others of its configuration."""
    given: dict[str, Any] = {"models": [{**STUB, **(model or {})}], **tables}
    given["server"] = {"isolation": "thread", **given.get("server", {})}
    with threaded(create_app(check_tables(given, folder / "server.toml"))) as url:
        yield url


class Canned:
    """An application with one answer, and the requests that it got: method, path, headers, body."""

    def __init__(
        self, status: int = 200, body: object = None, raw: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status, self.headers = status, headers or {}
        self.body = msgspec.json.encode(body) if raw is None else raw
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        known = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.seen.append((scope["method"], scope["path"], known, body))
        named = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": named})
        await send({"type": "http.response.body", "body": self.body})


def self_signed(folder: Path) -> tuple[str, str]:
    """A certificate of 127.0.0.1 that nobody has signed but itself, and its key: files in PEM format."""
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=here"
    names = ("-addext", "subjectAltName=IP:127.0.0.1")
    subprocess.run([*command.split(), *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key
