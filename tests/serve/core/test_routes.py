"""Two APIs on one path."""

from __future__ import annotations

import httpx
import pytest
from helpers.served import served
from starlette.applications import Starlette
from starlette.types import ASGIApp

from erllama_py.serve.core.exchange import Api, Exchange, json_response, route
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
