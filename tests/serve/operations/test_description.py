"""`/openapi.json`: what the application says of itself, and that it keeps to it whatever it is sent."""

from __future__ import annotations

import os
import re

import pytest
from helpers.described import Operation, described, mostly_sound
from helpers.served import served
from starlette.routing import Route

from erllama_py.serve.core.endpoint import Endpoint

EXAMPLES = int(os.environ.get("ERLLAMA_DESCRIBED_EXAMPLES", "6"))


@pytest.mark.anyio
async def test_every_route_is_described() -> None:
    """With what it is for, what it takes, and how its errors look."""
    async with served() as at:
        description = (await at.client.get("/openapi.json")).json()
        for route in at.app.routes:
            if not isinstance(route, Route) or route.path == "/openapi.json":
                continue
            assert isinstance(route.endpoint, Endpoint)
            if not route.include_in_schema:
                continue
            path = description["paths"][re.sub(r":\w+}", "}", route.path)]
            for method in (route.methods or set()) - {"HEAD"}:
                operation = path[method.lower()]
                assert operation["summary"]
                assert ("requestBody" in operation) == (route.endpoint.takes is not None)
                error = operation["responses"]["429"]["content"]["application/json"]["schema"]
                assert error["type"] == "object"
                assert operation["security"] == [{}] or not route.endpoint.everybody
        ids = [one["operationId"] for path in description["paths"].values() for one in path.values()]
        assert len(ids) == len(set(ids))


@pytest.mark.slow
def test_it_keeps_to_its_description() -> None:
    """No error of the server, no status, media type or shape that is not described: for requests that are as described,
    for others, and for methods that are not there."""
    problems = dict[Operation, str]()
    with described() as one:
        one.schema.validate()
        for operation in one.operations():
            try:
                one.hold(operation, EXAMPLES)
            except BaseExceptionGroup as group:
                problems[operation] = "\n".join(map(str, group.exceptions))
            except AssertionError as error:
                problems[operation] = str(error)
        good = one.statuses[200]
    assert problems == {}
    assert good > EXAMPLES


@pytest.mark.anyio
async def test_a_method_that_is_not_there_names_those_that_are() -> None:
    """In `Allow`, as HTTP demands."""
    async with served() as at:
        answer = await at.client.put("/v1/chat/completions")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_bodies_are_made_mostly_sound() -> None:
    """The helper itself: of fields that matter, only those that the endpoint has."""
    made = [mostly_sound({"model": 3, "x": 1}, {"model", "messages", "x"}, seed) for seed in range(50)]
    assert sum(one.get("model") == "tiny" for one in made) > 30
    assert {"x" in one for one in made} == {True, False}
    assert not any("input" in one for one in made)
