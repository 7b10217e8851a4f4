"""One span for each request over HTTP, where the process has a tracer: around all endpoints, below what called them.

The `traceparent` of a request is honoured, in whatever form the application's propagator reads. Routes are those of the
code; what a client writes (its path, its query, its headers) is in no span.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from erllama_py.serve.core.endpoint import FACTS, WORK
from erllama_py.serve.core.exchange import LEFT
from erllama_py.watch.tracer import tracer

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

# What people and monitors look at all the time, streams that last for hours among it.
LOOKED_AT = frozenset({"/", "/health", "/health/live", "/metrics", "/openapi.json"})
LOOKED_INTO = ("/erllama/", "/page/")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Traces:
    """An ASGI middleware. It costs a request a look into a dictionary where there are no spans."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, inside its span."""
        found = tracer() if scope["type"] in ("http", "websocket") else None
        if found is None or is_looked_at(method_of(scope), scope["path"].removeprefix(scope.get("root_path", ""))):
            await self._app(scope, receive, send)
            return
        await self._traced(found, scope, receive, send)

    async def _traced(self, found: Tracer, scope: Scope, receive: Receive, send: Send) -> None:
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, get_current_span, use_span

        inside = get_current_span().get_span_context().is_valid  # of a host that makes spans of requests itself
        headers = dict[str, list[str]]()
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        span = found.start_span(
            method_of(scope), None if inside else extract(headers), SpanKind.INTERNAL if inside else SpanKind.SERVER,
            {"http.request.method": method_of(scope), "url.scheme": scope.get("scheme", "http")},
        )  # fmt: skip
        with use_span(span, record_exception=False, set_status_on_exception=False):
            await self._watched(span, scope, receive, send)

    async def _watched(self, span: Span, scope: Scope, receive: Receive, send: Send) -> None:
        sent: list[int] = []

        async def watched(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                sent.append(message["status"])
            elif message["type"] == "websocket.accept":
                sent.append(101)
            await send(message)

        raised = None

        def end(_: object = None) -> None:
            _tell(span, scope, sent[0] if sent else None, raised)
            span.end()

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            raised = type(error).__name__
            raise
        finally:
            work = scope.get(WORK)
            if work is None or work.done():
                end()
            else:
                work.add_done_callback(end)  # its client has left, and may come back: the request goes on


def method_of(scope: Mapping[str, Any]) -> str:
    """The method of a request; a WebSocket begins as a `GET`, and one that is not known is the convention's word."""
    method = scope.get("method", "GET")
    return method if method in METHODS else "_OTHER"


def is_looked_at(method: str, path: str) -> bool:
    """Whether a request only looks at the server, and asks for nothing."""
    return method in ("GET", "HEAD") and (path in LOOKED_AT or path.startswith(LOOKED_INTO))


def _tell(span: Span, scope: Scope, status: int | None, raised: str | None) -> None:
    from opentelemetry.trace import StatusCode

    route, facts = getattr(scope.get("endpoint"), "route", None), scope.get(FACTS, {})
    if route is not None:
        span.update_name(f"{method_of(scope)} {route}")
        span.set_attribute("http.route", route)
    if status is not None:
        span.set_attribute("http.response.status_code", status)
    span.set_attributes(described(facts))
    if (kind := raised or failure(status, facts)) is not None:
        span.set_attribute("error.type", kind)
        span.set_status(StatusCode.ERROR)


def described(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the log says of a request, as attributes; counts of tokens are its model's spans'."""
    names = {
        "api": "erllama.api", "request_id": "erllama.request_id", "tenant": "erllama.tenant",
        "model": "gen_ai.request.model", "finish_reason": "erllama.finish_reason",
    }  # fmt: skip
    found: dict[str, Any] = {names[name]: value for name, value in facts.items() if name in names}
    return found | ({"erllama.client_left": True} if facts.get("status") == LEFT else {})


def failure(status: int | None, facts: Mapping[str, Any]) -> str | None:
    """The class of an error of the server's own: a stream may fail after it has begun. A client's are none."""
    if (error := facts.get("error")) is not None:
        return str(error)
    return str(status) if status is not None and status >= 500 else None
