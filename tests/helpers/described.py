"""An application held to its own description: requests that it describes, and some that it does not, by schemathesis.

The application lives on an event loop of its own, in a thread; hypothesis draws requests here and sends them there.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import schemathesis
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi import checks

from helpers.served import Served, served

load_all_checks()
# Not among them: that whatever a schema allows is accepted, and nothing else. Schemas do not say all that is checked.
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]
BOUNDS = {"max_response_tokens": 4, "max_body_bytes": 1 << 20}


# What a request needs to get as far as a model.
SOUND: dict[str, Any] = {
    "model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "input": "hello",
    "prompt": "hello", "query": "hello", "documents": ["hello", "there"],
}  # fmt: skip


def mostly_sound(body: dict[str, Any], names: set[str], seed: int) -> dict[str, Any]:
    """A body with fewer of its fields, and with sound values for most of those of `names` that matter.

    Else nearly all would be refused for the first of many fields, and few would get as far as a model.
    """
    pick = random.Random(seed)
    kept = pick.choice((0.05, 0.2, 1.0))
    found = dict[str, Any]()
    for name, value in body.items():
        if name in SOUND or pick.random() < kept:
            found[name] = value
    names = names - {"prompt"} if "input" in names else names  # where both are, they exclude each other
    return found | {name: value for name, value in SOUND.items() if name in names and pick.random() < 0.95}


class Operation(NamedTuple):
    """A method of a path."""

    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Described(NamedTuple):
    """An application that is asked, and its description as schemathesis reads it."""

    portal: BlockingPortal
    at: Served
    raw: dict[str, Any]
    schema: Any
    statuses: Counter[int]
    """How often each was answered."""

    def operations(self) -> list[Operation]:
        """All that is described."""
        found = (one.ok() for one in self.schema.get_all_operations())
        return [Operation(one.method.upper(), one.path) for one in found]

    def hold(self, operation: Operation, examples: int) -> None:
        """Send requests, well-formed ones and others. Raises what is wrong with an answer, with the request."""
        described, names = self.schema[operation.path][operation.method], self._names(operation)
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and not list(described.body):  # nothing can be wrong
                continue

            @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(case=described.as_strategy(generation_mode=mode), seed=st.integers(0, 2**32 - 1))
            def one(case: Case[Any], seed: int) -> None:
                if isinstance(case.body, dict):
                    case.body = mostly_sound(case.body, names, seed)
                case.validate_response(self.send(case), checks=CHECKS)

            one()

    def _names(self, operation: Operation) -> set[str]:
        """The fields of its body."""
        schemas = self.raw["components"]["schemas"]
        body = self.raw["paths"][operation.path][operation.method.lower()].get("requestBody")
        schema = {} if body is None else body["content"]["application/json"]["schema"]
        return set(schemas.get(schema.get("$ref", "").rpartition("/")[2], schema).get("properties", ()))

    def send(self, case: Case[Any]) -> httpx.Response:
        """One request, on the application's loop."""
        given = case.as_transport_kwargs(base_url="http://localhost")
        data = given.pop("data", None)
        if data is not None:
            given["content"] = data
        given.pop("cookies", None)
        response = self.portal.call(lambda: self.at.client.request(**given))
        self.statuses[response.status_code] += 1
        return response


@contextmanager
def described() -> Iterator[Described]:
    """An application over a stub, and its description."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(served(settings=BOUNDS)) as at:
        description = portal.call(at.client.get, "/openapi.json").json()
        yield Described(portal, at, description, schemathesis.openapi.from_dict(description), Counter())
