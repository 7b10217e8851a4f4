"""What is decided before a request is looked at: where it comes from, and by which name and from which page.

An ASGI middleware of its own, around all endpoints: it reads headers alone.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from erllama_py.serve.access.hosts import host_problem, is_loopback, is_passed_on
from erllama_py.serve.access.settings import AccessOpts
from erllama_py.serve.core.api import Api, new_id
from erllama_py.serve.core.logs import log_refusal
from erllama_py.serve.core.problems import Problem

EXPOSED = "x-request-id, request-id, retry-after"
AGE_SECONDS = "600"  # how long a browser remembers what a page may do


class Doors:
    """Turns away who may not ask at all: other machines where there are no keys, unknown names over loopback, pages.

    `options` gives those that hold now, `api_of` the shape of a refusal.
    """

    def __init__(self, app: ASGIApp, options: Callable[[], AccessOpts], api_of: Callable[[Scope], Api]) -> None:
        self._app, self._api_of, self._options = app, api_of, options
        self._read(options())

    def _read(self, options: AccessOpts) -> None:
        self._known = options
        self._local_only = not options.keys and not options.insecure
        self._checks_hosts = not options.insecure
        self._hosts = options.allowed_hosts
        self._any_origin = "*" in options.origins
        self._origins = frozenset(origin.rstrip("/").lower() for origin in options.origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if (options := self._options()) is not self._known:
            self._read(options)
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if (problem := self._problem(scope, headers, origin)) is not None:
            await self._refuse(problem, scope, receive, send)
        elif origin is None or scope["type"] == "websocket":
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await Response(status_code=204, headers=_preflight(origin, headers))(scope, receive, send)
        else:
            await self._app(scope, receive, _readable(origin, send))

    async def _refuse(self, problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
        api, request_id = self._api_of(scope), new_id()
        log_refusal(api.name, request_id, problem.status, problem.code)
        refused = api.failure(problem, request_id)
        if scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
            await refused(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": f"HTTP {refused.status_code}"})

    def _problem(self, scope: Scope, headers: Headers, origin: str | None) -> Problem | None:
        client, server = scope.get("client"), scope.get("server")
        # Who comes over a Unix socket has no address: its file's permissions say who that may be.
        elsewhere = client is not None and client[0] and not is_loopback(client[0])
        if self._local_only and (elsewhere or is_passed_on(headers)):
            message = "without keys this server answers its own machine alone: give it keys, or say insecure"
            return Problem("forbidden", message, code="local_only")
        if self._checks_hosts and (is_loopback(client and client[0]) or is_loopback(server and server[0])):
            unknown = host_problem(headers.get("host", ""), self._hosts)
            if unknown is not None:
                return Problem("forbidden", unknown, code="unknown_host")
        if origin is not None and not self._may_call(origin.lower(), scope, headers):
            message = f"pages of {origin[:80]!r} may not call this server: its origins name those that may"
            return Problem("forbidden", message, code="unknown_origin")
        return None

    def _may_call(self, origin: str, scope: Scope, headers: Headers) -> bool:
        scheme = scope.get("scheme", "http").replace("ws", "http")
        own = f"{scheme}://{headers.get('host', '').lower()}"
        return self._any_origin or origin == own or origin in self._origins


def _preflight(origin: str, headers: Headers) -> dict[str, str]:
    answer = {
        "access-control-allow-origin": origin, "vary": "Origin", "access-control-max-age": AGE_SECONDS,
        "access-control-allow-methods": "GET, POST, DELETE",
        "access-control-allow-headers": headers.get("access-control-request-headers", ""),
    }  # fmt: skip
    if headers.get("access-control-request-private-network") == "true":
        answer["access-control-allow-private-network"] = "true"
    return answer


def _readable(origin: str, send: Send) -> Send:
    """Sends what a page of this origin may read."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": list(message.get("headers", ()))}
            headers = MutableHeaders(scope=message)
            headers["access-control-allow-origin"] = origin
            headers["access-control-expose-headers"] = EXPOSED
            headers.add_vary_header("Origin")
        await send(message)

    return sent
