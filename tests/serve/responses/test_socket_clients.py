"""Clients of WebSockets that send too much, read nothing, or leave, over real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from typing import Any

import pytest
from helpers.runtime import until
from helpers.served import STUB
from helpers.sockets import ASK, at, rest, say, standing, turn

import erllama_py as erllama
from erllama_py.serve.access import AccessOpts, KeyAccess
from erllama_py.serve.access.keys import make_key
from erllama_py.serve.access.settings import KeyOpts
from erllama_py.serve.app import create_app

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_turns_that_wait_are_bounded_in_bytes() -> None:
    """Together they have as many as one body may have: else each connection could fill the memory."""
    async with standing(max_body_bytes=4000) as (one, gate, model), one.connect() as connection:
        for text in ("x", "y" * 2500, "z" * 2500, "z"):
            await say(connection, **ASK | {"model": "m", "input": text})
            if text == "x":
                await until(lambda: model.queue_depth == 1)
        while "too_many_turns" not in await connection.recv(decode=True):
            pass
        gate.gate.set()
        said = [(await rest(connection))[-1]["response"]["usage"]["input_tokens"] > 2500 for _ in range(3)]
        assert said == [False, True, False]


async def test_a_turn_whose_client_left_is_counted_and_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    """The first that is known of it may be that nothing can be sent: else who leaves so would pay nothing."""
    key, digest = make_key()
    access = AccessOpts(keys=(KeyOpts(name="me", hash=digest, tokens_per_minute=10_000),))
    async with erllama.Runtime() as runtime:
        await runtime.load_model("tiny", STUB)
        app, sent = create_app(runtime, access=access), asyncio.Event()
        asked = json.dumps(ASK | {"max_output_tokens": 1000})
        come: Any = iter([{"type": "websocket.connect"}, {"type": "websocket.receive", "text": asked}])

        async def receive() -> Any:
            if (message := next(come, None)) is not None:
                return message
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if "delta" in message.get("text", ""):
                sent.set()
                raise OSError

        headers = [(b"authorization", b"Bearer " + key.encode()), (b"host", b"localhost")]
        scope: Any = {
            "type": "websocket", "path": "/v1/responses", "raw_path": b"", "query_string": b"", "headers": headers,
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "scheme": "ws",
        }  # fmt: skip
        with caplog.at_level(logging.INFO, "erllama_py.http"):
            async with asyncio.timeout(10):
                await app(scope, receive, send)
        assert sent.is_set()
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert isinstance(app.service.access, KeyAccess)
        assert app.service.access._budgets["me"].left(time.monotonic())[0] < 9_990


async def test_a_prompt_whose_client_left_is_charged() -> None:
    """`generate: false` has no reply that could be charged instead."""
    key, digest = make_key()
    access = AccessOpts(keys=(KeyOpts(name="me", hash=digest, tokens_per_day=10_000),))
    async with standing(access=access) as (one, gate, model):
        async with one.connect(additional_headers={"x-api-key": key}) as connection:
            await say(connection, **ASK | {"model": "m", "generate": False, "input": "x" * 2000})
            await until(lambda: model.queue_depth == 1)
            await gate.shut(1)
        gate.gate.set()
        assert isinstance(one.app.service.access, KeyAccess)
        budget = one.app.service.access._budgets["me"]
        await until(lambda: model.queue_depth == 0)
        await until(lambda: budget.left(time.monotonic())[0] < 10_000 - gate.computed + 1)
        assert gate.computed > 0


async def test_pings_of_a_client_that_does_not_read_do_not_fill_the_memory() -> None:
    """They are answered again when it reads."""
    async with at() as one, one.connect() as connection:
        (here,) = one.server.server_state.connections
        here.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.transport.pause_reading()
        ping = b"\x89\xfd\0\0\0\0" + b"p" * 125
        for _ in range(30):
            connection.transport.write(ping * 200)
            await until(lambda: not connection.transport.get_write_buffer_size())
        assert here.transport.get_write_buffer_size() < 300_000
        connection.transport.resume_reading()
        assert (await turn(connection))[-1]["type"] == "response.incomplete"
        await (await connection.ping())


async def test_messages_that_come_at_once_keep_nobody_else_waiting() -> None:
    """Between any two of them others have their turn: here a task that counts how often it has."""
    async with at() as one, one.connect() as connection:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        connection.transport.write(b"\x81\x82\0\0\0\0{}" * 2000)
        counting = asyncio.create_task(others())
        for _ in range(2000):
            assert json.loads(await connection.recv())["code"] == "missing_required_parameter"
        counting.cancel()
        assert turns > 2000


async def test_the_log_has_no_query(caplog: pytest.LogCaptureFixture) -> None:
    """Some clients put their key there. What ends in the middle of a word is no failure either."""
    with caplog.at_level(logging.INFO):
        async with at() as one, one.connect("/v1/responses?api_key=secret") as connection:
            assert await turn(connection)
            connection.transport.write(b"\x81\x81\0\0\0\0\xff\x88\x80\0\0\0\0")
            await until(lambda: not one.server.server_state.connections)
    assert "api_key" not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
