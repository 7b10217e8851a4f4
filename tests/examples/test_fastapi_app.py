"""The FastAPI example: answers, streams, maps errors, and drops the request of a client that goes away."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from helpers.runtime import STUB, engine_threads, until

from docs.examples.fastapi_app import create_app

pytestmark = pytest.mark.anyio

MESSAGES = [{"role": "user", "content": "hello"}]
GREEDY = {"temperature": 0.0, "response_tokens": 8}


@asynccontextmanager
async def running(**stub: Any) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
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


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/complete", {"prompt": ""}, 422, "EmptyPrompt"),
        ("/complete", {"prompt": "x", "options": {"temprature": 1}}, 422, "InvalidOption"),
        ("/chat", {"messages": []}, 422, "ChatTemplateError"),
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


async def test_a_crashed_model_is_unavailable_and_comes_back() -> None:
    """503 with Retry-After for the request that it had; the next one is answered."""
    async with running(seconds_per_token=0.001) as (app, client), anyio.create_task_group() as group:
        answers: list[httpx.Response] = []

        async def ask() -> None:
            options = {"temperature": 0.0, "response_tokens": 2000}
            answers.append(await client.post("/complete", json={"prompt": "hello again", "options": options}))

        group.start_soon(ask)
        await until(lambda: app.state.model.phase == "generating")
        app.state.model.inject_fault()
        await until(lambda: bool(answers))
        assert (answers[0].status_code, answers[0].headers["Retry-After"]) == (503, "1")
        assert (await client.post("/complete", json={"prompt": "hello", "options": GREEDY})).status_code == 200


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_client_that_goes_away_cancels_its_request(at_once: bool) -> None:
    """The model would have generated for hours; it is idle again as soon as the client is gone.

    Also when it goes before the first byte of the answer was sent.
    """
    async with running(seconds_per_token=3600.0) as (app, _):
        gone = anyio.Event()
        if at_once:
            gone.set()
        sent: list[dict[str, Any]] = []
        body = json.dumps({"messages": MESSAGES}).encode()
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
            "path": "/chat", "raw_path": b"/chat", "query_string": b"", "headers": [], "scheme": "http",
            "server": ("app", 80), "client": ("client", 1), "root_path": "",
        }  # fmt: skip
        async with anyio.create_task_group() as group:
            group.start_soon(app, scope, receive, send)
            await until(lambda: app.state.model.phase == "prefilling" and (bool(sent) or at_once))
            gone.set()
            await until(lambda: app.state.model.queue_depth == 0)
