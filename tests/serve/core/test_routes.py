"""Two APIs on one path."""

from __future__ import annotations

import httpx
import pytest
from helpers.served import served
from starlette.applications import Starlette
from starlette.types import ASGIApp

from erllama_py.serve.core.api import Api, json_response
from erllama_py.serve.core.endpoint import route
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.problems import Problem

API = Api("test", lambda problem, request_id: {"error": problem.message}, statuses={"overloaded": 529})


async def one(exchange: Exchange) -> ASGIApp:
    """An endpoint."""
    return json_response({"api": "one"})


async def other(exchange: Exchange) -> ASGIApp:
    """Another one."""
    return json_response({"api": "other"})


@pytest.mark.anyio
async def test_a_header_chooses_the_api() -> None:
    """Whatever its value; without it the request is for the next route."""
    async with served() as at:
        service = at.app.service
        routes = [route(service, API, "/x", one, method="GET", header="one-version")]
        app = Starlette(routes=[*routes, route(service, API, "/x", other, method="GET")])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            assert (await client.get("/x")).json() == {"api": "other"}
            assert (await client.get("/x", headers={"One-Version": "3"})).json() == {"api": "one"}


def test_an_api_may_have_statuses_of_its_own() -> None:
    """Unless the problem has one."""
    assert API.problem(Problem("overloaded", "x")).status == 529
    assert API.problem(Problem("overloaded", "x", status=418)).status == 418
    assert API.problem(Problem("invalid", "x")).status == 400


@pytest.mark.anyio
async def test_a_body_with_a_mark_of_its_order_and_one_that_is_compressed() -> None:
    """The first is read, the second is refused by its name and not as broken JSON."""
    body = b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}'
    async with served() as at:
        path = "/v1/chat/completions"
        assert (await at.client.post(path, content=b"\xef\xbb\xbf" + body)).status_code == 200
        for coding, status in (("gzip", 415), ("identity", 200)):
            answer = await at.client.post(path, content=body, headers={"content-encoding": coding})
            assert answer.status_code == status
        answer = await at.client.post(path, content=body, headers={"content-encoding": "gzip"})
        assert "'gzip'" in answer.json()["error"]["message"]


@pytest.mark.anyio
async def test_what_is_refused_before_its_endpoint_has_an_id_too() -> None:
    """A path that is not there, a method, a page of another origin."""
    async with served() as at:
        for answer in (
            await at.client.get("/v1/nothing"),
            await at.client.get("/v1/chat/completions"),
            await at.client.get("/v1/models", headers={"origin": "http://evil.example"}),
        ):
            assert answer.is_client_error
            assert answer.headers["x-request-id"].startswith("req_")
