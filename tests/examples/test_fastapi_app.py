"""The FastAPI example: answers, streams, maps errors, and drops the request of a client that goes away."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Unpack

import anyio
import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from helpers.runtime import STUB, engine_threads, until

import erllama_py as erllama
from docs.examples.fastapi_app import create_app

pytestmark = pytest.mark.anyio

MESSAGES = [{"role": "user", "content": "hello"}]
HEADERS = [(b"content-type", b"application/json")]
GREEDY = {"temperature": 0.0, "response_tokens": 8}


@asynccontextmanager
async def running(**stub: Unpack[erllama.StubOptsDict]) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    app = create_app({**STUB, "stub": stub})
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client,
    ):
        yield app, client


async def test_it_completes_and_tells_its_health() -> None:
    """A whole reply as JSON, and the probes."""
    async with running() as (_, client):
        answer = await client.post("/complete", json={"prompt": "hello", "options": GREEDY})
        assert answer.status_code == 200
        assert len(answer.json()["reply"]) == 8
        assert (await client.get("/health")).json() == {"phase": "idle", "queue_depth": 0}
    assert engine_threads() == []


async def test_it_streams_a_chat() -> None:
    """The text of the events is the reply; the last event has the counts."""
    async with running() as (_, client):
        answer = await client.post("/chat", json={"messages": MESSAGES, "options": GREEDY})
        events = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
        whole = await client.post("/chat", json={"messages": MESSAGES, "options": GREEDY})
    assert whole.text == answer.text
    assert len("".join(event["text"] for event in events[:-1])) == events[-1]["tokens"] == 8


async def test_calls_of_tools_are_events() -> None:
    """A reply that is a call has no text: it would look empty."""
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}}
    options = {**GREEDY, "response_tokens": 200, "tools": [tool], "tools_in_system": True, "tool_choice": "required"}
    async with running() as (_, client):
        body = {"messages": MESSAGES, "options": {**options, "parallel_tool_calls": False}}
        answer = await client.post("/chat", json=body)
        (called, _) = (json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line)
    assert called["tool_call"]["name"] == "f"
    assert (called["tool_call"]["arguments"], called["problem"]) == ({"a": 1}, None)


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/complete", {"prompt": ""}, 422, "EmptyPrompt"),
        ("/complete", {"prompt": "x", "options": {"temprature": 1}}, 422, "InvalidOption"),
        ("/complete", {"prompt": "x", "options": {"prompt": "y"}}, 422, "InvalidOption"),
        ("/chat", {"messages": []}, 422, "ChatTemplateError"),
        ("/chat", {"messages": MESSAGES, "options": {"messages": []}}, 422, "InvalidOption"),
        ("/chat", {"messages": MESSAGES, "options": {"top_p": 2}}, 422, "InvalidOption"),
    ],
)
async def test_a_bad_request_has_a_status_and_names_its_error(
    path: str, body: dict[str, Any], status: int, error: str
) -> None:
    """Also for a stream: it is refused before the first event."""
    async with running() as (_, client):
        answer = await client.post(path, json=body)
        assert (answer.status_code, answer.json()["error"]) == (status, error)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/complete", b"{"),
        ("/complete", b"[]"),
        ("/complete", b"{}"),
        ("/complete", b'{"prompt": "x", "options": [1]}'),
        ("/chat", b'{"messages": 7}'),
        ("/chat", b'{"messages": [7]}'),
    ],
)
async def test_a_body_of_another_shape_is_refused(path: str, body: bytes) -> None:
    """What a client sends never breaks the application."""
    async with running() as (_, client):
        answer = await client.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 422


class Failing:
    """A model whose requests end with an error."""

    def __init__(self, error: erllama.ErllamaError) -> None:
        self._error = error

    async def complete(self, prompt: str, *, options: dict[str, Any]) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (erllama.InvalidOption("top_p", "no"), 422),
        (erllama.RequestError("no"), 422),
        (erllama.SessionBusy("no", "s"), 409),
        (erllama.ContextOverflow("no"), 422),
        (erllama.ModelNotLoaded("m"), 404),
        (erllama.ModelUnavailable("m"), 503),
        (erllama.ModelCrashed("m", "no"), 503),
        (erllama.QueueFull("m", 1, 1), 503),
        (erllama.RuntimeClosed(), 503),
        (erllama.ErllamaError(), 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
async def test_each_family_of_errors_has_its_status(error: erllama.ErllamaError, status: int) -> None:
    """And a client is asked to retry where that can help."""
    async with running() as (app, client):
        app.state.model = Failing(error)
        answer = await client.post("/complete", json={"prompt": "x"})
        assert (answer.status_code, answer.json()["error"]) == (status, type(error).__name__)
        assert answer.headers.get("Retry-After") == ("1" if status == 503 else None)


@pytest.mark.slow
async def test_a_request_outlives_a_crash_of_its_model() -> None:
    """It is answered as if nothing had been, and so is the next one."""
    async with running(seconds_per_token=0.001) as (app, client), anyio.create_task_group() as group:
        answers: list[httpx.Response] = []

        async def ask() -> None:
            options = {"temperature": 0.0, "response_tokens": 200, "ignore_eos": True}
            answers.append(await client.post("/complete", json={"prompt": "hello again", "options": options}))

        group.start_soon(ask)
        await until(lambda: app.state.model.phase == "generating")
        app.state.model.inject_fault()
        await until(lambda: bool(answers))
        assert answers[0].status_code == 200
        assert (await client.post("/complete", json={"prompt": "hello", "options": GREEDY})).status_code == 200
        assert app.state.model.info.restarts == 1


async def test_a_crash_for_good_within_a_stream_is_its_last_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """The status was sent long ago; the answer still ends in good order."""
    monkeypatch.setattr("erllama_py.tree.MODEL_LIMITS", erllama.RestartLimits(intensity=0))
    async with running(seconds_per_token=3600.0) as (app, client), anyio.create_task_group() as group:
        answers: list[httpx.Response] = []

        async def ask() -> None:
            answers.append(await client.post("/chat", json={"messages": MESSAGES}))

        group.start_soon(ask)
        await until(lambda: app.state.model.phase == "prefilling")
        app.state.model.inject_fault()
        await until(lambda: bool(answers))
    assert answers[0].status_code == 200
    assert json.loads(answers[0].text.removeprefix("data: "))["error"] == "ModelCrashed"


@pytest.mark.parametrize(
    ("path", "request_body", "at_once"),
    [
        ("/chat", {"messages": MESSAGES}, False),
        ("/chat", {"messages": MESSAGES}, True),
        ("/complete", {"prompt": "hello"}, True),
    ],
)
async def test_a_client_that_goes_away_cancels_its_request(
    path: str, request_body: dict[str, Any], at_once: bool
) -> None:
    """The model would have generated for hours; it is idle again as soon as the client is gone.

    Also when it goes before the first byte of the answer was sent.
    """
    async with running(seconds_per_token=3600.0) as (app, _):
        gone = anyio.Event()
        sent: list[dict[str, Any]] = []
        body = json.dumps(request_body).encode()
        requests = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> dict[str, Any]:
            if message := next(requests, None):
                return message
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope: dict[str, Any] = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
            "path": path, "raw_path": path.encode(), "query_string": b"", "headers": HEADERS, "scheme": "http",
            "server": ("app", 80), "client": ("client", 1), "root_path": "",
        }  # fmt: skip
        async with anyio.create_task_group() as group:
            group.start_soon(app, scope, receive, send)
            if not at_once:
                await until(lambda: app.state.model.phase == "prefilling" and bool(sent))
            gone.set()
        await until(lambda: app.state.model.queue_depth == 0)


class SilentServer(uvicorn.Server):
    """A server that tells when it takes connections, and leaves the signals of the process alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serving = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serving.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@pytest.mark.slow  # uvicorn looks ten times a second whether it should stop
async def test_a_connection_that_is_closed_cancels_its_request() -> None:
    """The same through a server and a socket: how a server tells of a client that went away is not up to us."""
    app = create_app({**STUB, "stub": {"seconds_per_token": 3600.0}})
    body = json.dumps({"messages": MESSAGES}).encode()
    head = f"POST /chat HTTP/1.1\r\nHost: app\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = SilentServer(uvicorn.Config(app, log_config=None, ws="none", lifespan="on"))
        async with anyio.create_task_group() as group:
            group.start_soon(server.serve, [listening])
            await server.serving.wait()
            async with await anyio.connect_tcp(*listening.getsockname()) as client:
                await client.send(head.encode() + body)
                assert (await client.receive()).startswith(b"HTTP/1.1 200 OK")
                await until(lambda: app.state.model.phase == "prefilling")
            await until(lambda: app.state.model.queue_depth == 0)
            server.should_exit = True
    assert engine_threads() == []
