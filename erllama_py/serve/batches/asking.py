"""A line asked of the endpoint that it names, in this process: as a request of its tenant, checked and answered alike.

It differs from a request over HTTP in three things: it is computed in the background, whatever its tenant's priority;
how long it waits is in no histogram of latencies; and no deadline of the server's ends it.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import Message, Scope

import erllama_py as erllama
from erllama_py.serve.core.api import JSON
from erllama_py.serve.core.endpoint import Endpoint
from erllama_py.serve.core.service import Access, Meters, Service, Tenant, Unmeasured, readmitted

BACKGROUND = -1000  # the lowest priority, and at which a model computes in the background
GONE = 499


class Answer(msgspec.Struct, frozen=True):
    """What an endpoint has answered. `code` is that of its error."""

    status: int
    body: bytes
    request_id: str = ""
    code: str | None = None
    retry_after: float | None = None


class Ask(Protocol):
    """Asks an endpoint, by its path."""

    async def __call__(self, url: str, body: bytes, gone: asyncio.Event) -> Answer:
        """What it answers; status 499 where it is `gone` before."""


class _Failed(msgspec.Struct):
    class Error(msgspec.Struct):
        code: str | int | None = None

    error: Error


class _Tenants:
    """See `Access`: lets the lines of one tenant in."""

    def __init__(self, tenant: Tenant, access: Access) -> None:
        self._tenant, self._access = tenant, access

    def admit(self, connection: HTTPConnection) -> Tenant:
        """The tenant as it is now, in the background. Raises `Problem`."""
        return msgspec.structs.replace(readmitted(self._access, self._tenant), priority=BACKGROUND)

    def spent(self, tenant: Tenant, tokens: int) -> None:
        """See `Access`."""
        self._access.spent(tenant, tokens)


class _Counted(Unmeasured):
    """See `Meters`: replies and their tokens count, times do not."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters

    def replied(self, api: str, model: str, completion: erllama.Completion) -> None:
        """See `Meters`."""
        self._meters.replied(api, model, completion)


class Endpoints:
    """The endpoints that a line can name, by their paths."""

    def __init__(self, service: Service, endpoints: Mapping[str, Endpoint]) -> None:
        self._service, self._endpoints = service, endpoints

    def __contains__(self, url: object) -> bool:
        return url in self._endpoints

    def names(self) -> list[str]:
        """Their paths."""
        return sorted(self._endpoints)

    def of(self, tenant: Tenant) -> Ask:
        """What asks them for a tenant."""

        async def ask(url: str, body: bytes, gone: asyncio.Event) -> Answer:
            service = copy.copy(self._service)  # as it is now: its models may be others than at the line before
            service.access = _Tenants(tenant, service.access)
            service.meters = _Counted(service.meters)
            service.settings = msgspec.structs.replace(service.settings, deadline_seconds=None)
            known = self._endpoints[url]
            return await _asked(Endpoint(service, known.api, known.route, known.handle), url, body, gone)

        return ask


async def _asked(endpoint: Endpoint, url: str, body: bytes, gone: asyncio.Event) -> Answer:
    sent = list[Message]()
    coming: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    scope: Scope = {
        "type": "http", "method": "POST", "path": url, "root_path": "", "query_string": b"", "client": None,
        "server": None, "scheme": "http", "http_version": "1.1", "asgi": {"version": "3.0"},
        "headers": [(b"content-type", JSON.encode()), (b"content-length", b"%d" % len(body))],
    }  # fmt: skip

    async def receive() -> Message:
        if coming:
            return coming.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await endpoint(scope, receive, send)
    return _answer(sent)


def _answer(sent: list[Message]) -> Answer:
    if not sent:
        return Answer(GONE, b"")
    status, headers = sent[0]["status"], Headers(raw=sent[0]["headers"])
    body = b"".join(message.get("body", b"") for message in sent[1:])
    again: Any = headers.get("retry-after", "")
    return Answer(
        status, body, headers.get("x-request-id", ""), None if status < 400 else _code(body),
        float(again) if again.isdecimal() else None,
    )  # fmt: skip


def _code(body: bytes) -> str | None:
    try:
        code = msgspec.json.decode(body, type=_Failed).error.code
    except msgspec.DecodeError:
        return None
    return None if code is None else str(code)
