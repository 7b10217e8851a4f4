"""Connections that send slowly, endlessly, or nothing, over a real socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.gated import Gated
from helpers.runtime import until
from helpers.served import served

from erllama_py.serve.core.settings import ListenOpts
from erllama_py.serve.running.server import Server, config_of

pytestmark = pytest.mark.anyio
GET = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n"


class Connection:
    """One, as a client that speaks HTTP by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self) -> bytes:
        """The head and body of one answer."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return head + await self._reader.readexactly(int(lengths[0].split()[1]))

    async def rest(self) -> bytes:
        """All until the server closes the connection."""
        try:
            return await self._reader.read()
        except ConnectionResetError:
            return b""

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def connecting(gate: Gated | None = None, **options: Any) -> AsyncIterator[Any]:
    """What connects to a server with these bounds; it has the `app` and the `server`."""
    opened = list[Connection]()
    model: Any = None if gate is None else SimpleNamespace(backend=gate.make)
    async with served(settings={"body_seconds": options.pop("body_seconds", 60.0)}, script=model) as at:
        limits = ListenOpts(port=0, **options)
        server = Server(config_of(at.app, limits))
        listening = socket.create_server(("127.0.0.1", 0))
        running = asyncio.create_task(server.serve([listening]))
        address = listening.getsockname()

        async def connect() -> Connection:
            opened.append(Connection(*await asyncio.open_connection(*address)))
            return opened[-1]

        connect.app, connect.server = at.app, server  # type: ignore[attr-defined]  # of a function
        try:
            async with asyncio.timeout(30):
                yield connect
        finally:
            for connection in opened:
                connection.close()
            server.should_exit = True
            await running


@pytest.mark.slow
async def test_requests_are_answered() -> None:
    """One after the other, on one connection."""
    async with connecting() as connect:
        connection = await connect()
        for _ in range(3):
            connection.write(GET + b"\r\n")
            assert (await connection.answer()).startswith(b"HTTP/1.1 200")


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GE", GET, GET + b"x: " + b"y" * 1000])
async def test_a_head_that_does_not_come_ends_the_connection(sent: bytes) -> None:
    """Be it nothing, a part of it, or all but its end."""
    async with connecting(head_seconds=0.1) as connect:
        connection = await connect()
        connection.write(sent)
        assert await connection.rest() == b""


@pytest.mark.slow
async def test_a_head_that_does_not_come_after_a_request() -> None:
    """The time is that of each head, and not of the connection."""
    async with connecting(head_seconds=0.1) as connect:
        connection = await connect()
        for _ in range(3):
            connection.write(GET + b"\r\n")
            assert (await connection.answer()).startswith(b"HTTP/1.1 200")
        connection.write(b"GET /")
        assert await connection.rest() == b""


@pytest.mark.slow
async def test_a_connection_that_is_not_used_is_closed() -> None:
    """After its own time."""
    async with connecting(keep_alive_seconds=0) as connect:
        connection = await connect()
        connection.write(GET + b"\r\n")
        assert (await connection.answer()).startswith(b"HTTP/1.1 200")
        assert await connection.rest() == b""


@pytest.mark.slow
async def test_a_head_that_does_not_end() -> None:
    """In one header or many."""
    async with connecting(max_head_bytes=10_000) as connect:
        for endless in (b"x: " + b"y" * 100_000, b"x: y\r\n" * 20_000, b"a" * 100_000):
            connection = await connect()
            connection.write(GET + endless)
            answer = await connection.rest()
            assert not answer or answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))  # lost where more was sent
        connection = await connect()
        connection.write(GET + b"x: " + b"y" * 5000 + b"\r\n\r\n")
        assert (await connection.answer()).startswith(b"HTTP/1.1 200")


@pytest.mark.slow
async def test_a_body_that_does_not_come() -> None:
    """Is told so, and the connection ends."""
    async with connecting(body_seconds=0.1) as connect:
        connection = await connect()
        post = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{"
        connection.write(post)
        answer = await connection.rest()
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"body_too_slow" in answer


@pytest.mark.slow
async def test_more_connections_than_there_may_be() -> None:
    """Are closed at once; those that are there go on."""
    async with connecting(max_connections=2) as connect:
        first, second = await connect(), await connect()
        for connection in (first, second):
            connection.write(GET + b"\r\n")
            assert (await connection.answer()).startswith(b"HTTP/1.1 200")
        third = await connect()
        assert await third.rest() == b""
        first.write(GET + b"\r\n")
        assert (await first.answer()).startswith(b"HTTP/1.1 200")


OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: %s\r\nhttp2-settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAA\r\n"


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.2"])
async def test_another_protocol_that_is_offered_is_passed_over(protocol: bytes) -> None:
    """The request is answered, its body read, in whatever pieces it comes, and so are those after it."""
    body = b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n" + OFFER % protocol
    request = head + b"content-length: %d\r\n\r\n" % len(body) + body
    chunked = head + b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    async with connecting() as connect:
        connection = await connect()
        for sent in (request, chunked, GET + OFFER % protocol + b"\r\n", request + request):
            connection.write(sent)
            assert (await connection.answer()).startswith(b"HTTP/1.1 200")
        assert (await connection.answer()).startswith(b"HTTP/1.1 200")
        for cut in (60, len(request) - len(body), len(request) - 10):
            connection.write(request[:cut])
            await asyncio.sleep(0)
            connection.write(request[cut:])
            assert (await connection.answer()).startswith(b"HTTP/1.1 200")
        connection.write((GET + OFFER % protocol + b"\r\n") * 600)  # at once
        for _ in range(600):
            assert (await connection.answer()).startswith(b"HTTP/1.1 200")
        connection.write(GET + b"connection: close, upgrade\r\nupgrade: h2c\r\n\r\n")
        assert (await connection.rest()).startswith(b"HTTP/1.1 200")


@pytest.mark.slow
async def test_a_head_in_pieces_after_a_long_body() -> None:
    """The body does not count as a part of it."""
    async with connecting(max_head_bytes=10_000) as connect:
        connection = await connect()
        body = b'{"model": "none", "input": "' + b"x" * 100_000 + b'"}'
        connection.write(b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body))
        connection.write(body)
        assert (await connection.answer()).startswith(b"HTTP/1.1 404")
        for piece in (GET, b"x: y\r\n", b"\r\n"):
            connection.write(piece)
            await asyncio.sleep(0)
        assert (await connection.answer()).startswith(b"HTTP/1.1 200")


CHUNKED = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "endless", [b"0\r\n" + b"x: y\r\n" * 200_000, b"0\r\nx: " + b"y" * 1_000_000, b"1;" + b"x" * 1_000_000]
)
async def test_what_is_neither_head_nor_body_is_bounded(endless: bytes) -> None:
    """What follows a body in chunks, and what is said of a chunk: nothing heeds it, and it is not kept."""
    async with connecting(max_head_bytes=10_000) as connect:
        connection = await connect()
        connection.write(CHUNKED + endless)
        assert not (await connection.rest()).startswith(b"HTTP/1.1 2")


@pytest.mark.slow
async def test_what_follows_a_body_is_no_header() -> None:
    """So it cannot say what a proxy would have taken out."""
    async with connecting(max_head_bytes=10_000) as connect:
        connection = await connect()
        connection.write(CHUNKED + b"2\r\n{}\r\n0\r\norigin: http://evil.example\r\n\r\n")
        assert (await connection.answer()).startswith(b"HTTP/1.1 400")


@pytest.mark.slow
async def test_a_head_that_does_not_end_while_another_request_is_answered() -> None:
    """It is bounded as any."""
    async with connecting(max_head_bytes=10_000) as connect:
        connection = await connect()
        connection.write(b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
        connection.write(b" " * 99 + GET + b"x: " + b"y" * 1_000_000)
        assert b"HTTP/1.1 200" not in await connection.rest()


@pytest.mark.slow
async def test_a_client_that_reads_nothing_is_left() -> None:
    """Also where the answer is complete, and the connection has been idle since."""
    async with connecting(send_seconds=0.1, keep_alive_seconds=0) as connect:
        connection = await connect()
        for _ in range(100):  # more than the two machines' buffers hold
            connection.write(b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n")
        server = connect.server
        await until(lambda: server.server_state.connections)
        await until(lambda: not server.server_state.connections)


@pytest.mark.slow
async def test_all_requests_of_a_connection_learn_that_it_is_lost() -> None:
    """And not the last of them alone."""
    gate = Gated()
    async with connecting(gate) as connect:
        connection = await connect()
        ask = b'{"model": "tiny", "prompt": "x"}'
        head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(ask)
        connection.write((head + ask) * 2)
        await until(lambda: len(connect.app.service.open) == 1)
        await until(lambda: connect.app.service.runtime.model("tiny").queue_depth == 1)
        connection.close()
        await until(lambda: len(connect.app.service.open) == 0)
        gate.gate.set()


@pytest.mark.slow
async def test_a_tunnel_is_refused() -> None:
    """And not waited for."""
    async with connecting() as connect:
        connection = await connect()
        connection.write(b"CONNECT example.com:80 HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert (await connection.rest()).startswith(b"HTTP/1.1 400")
