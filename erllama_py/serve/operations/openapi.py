"""`GET /openapi.json`: the application as OpenAPI 3.1 describes it, made of its routes and of the types they take.

Bodies are the structs that requests are checked with. What is answered is described by its status and media type, by
type where a route declares one, and an error by the shape that its API gives all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.api import JSON, Api
from erllama_py.serve.core.endpoint import Endpoint
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.header_route import HeaderRoute
from erllama_py.serve.core.problems import STATUS, Problem

# What any request may get, beside 408 where a body comes too slowly.
STATUSES = {
    400: "The request is wrong; what is wrong is named.",
    401: "An API key is needed, or this one is not known.",
    403: "This key may not do that.",
    404: "What it names is not here.",
    409: "Something else is under way in this session.",
    413: "It is larger than the server takes.",
    429: "Too many requests are open or wait; try again after `Retry-After` seconds.",
    500: "The server failed; its log says why.",
    503: "The server or the model is not ready; try again after `Retry-After` seconds.",
}
assert set(STATUSES) == set(STATUS.values())
_REF = "#/components/schemas/{name}"


def description(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """The whole of it."""
    shown = [one for one in routes if isinstance(one, Route) and one.include_in_schema]
    ours = [(one, one.endpoint) for one in shown if isinstance(one.endpoint, Endpoint)]
    types = [kind for _, one in ours for kind in (one.takes, *one.answers.values()) if kind is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    known = dict(zip(map(id, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    # Routes that depend on a header are of paths that others have too, and those are described.
    for route, endpoint in sorted(ours, key=lambda one: isinstance(one[0], HeaderRoute)):
        path = paths.setdefault(re.sub(r":\w+}", "}", route.path), {})
        for method in sorted((route.methods or set()) - {"HEAD"}):
            path.setdefault(method.lower(), _operation(route.path, endpoint, method, known))
    scheme = {"type": "http", "scheme": "bearer", "description": "Or the same key as `x-api-key`."}
    return {
        "openapi": "3.1.0",
        "info": {"title": "erllama_py", "version": erllama.__version__, "description": "Local models over HTTP."},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": scheme}},
    }


def _operation(path: str, endpoint: Endpoint, method: str, known: dict[int, Any]) -> dict[str, Any]:
    summary, _, more = _text(endpoint.handle).partition("\n")
    names = re.findall(r"{(\w+)(?::\w+)?}", path)
    found: dict[str, Any] = {
        "operationId": "_".join((method.lower(), *re.findall(r"\w+", path))),
        "tags": [endpoint.api.name],
        "summary": summary,
        "responses": _responses(endpoint, known),
        "security": [{}] if endpoint.everybody else [{}, {"key": []}],
    }
    if more.strip():
        found["description"] = " ".join(more.split())
    if names:
        text = {"type": "string", "minLength": 1}
        found["parameters"] = [{"name": name, "in": "path", "required": True, "schema": text} for name in names]
    if endpoint.takes is not None:
        content = {JSON: {"schema": known[id(endpoint.takes)]}}
        found["requestBody"] = {"required": True, "content": content}
    return found


def _responses(endpoint: Endpoint, known: dict[int, Any]) -> dict[str, Any]:
    done = known[id(endpoint.answers[200])] if 200 in endpoint.answers else {}
    given = {media: {"schema": done if media == JSON else {}} for media in map(_bare, endpoint.gives)}
    found: dict[str, Any] = {"200": {"description": "What was asked for.", "content": given}}
    error = _shape_of_error(endpoint.api)
    own = {code: STATUSES[STATUS[kind]] for kind, code in endpoint.api.statuses.items()}
    slow = {408: "Its body came too slowly."} if endpoint.takes else {}
    for status, text in sorted({**STATUSES, **own, **slow}.items()):
        schema = known[id(endpoint.answers[status])] if status in endpoint.answers else error
        found[str(status)] = {"description": text, "content": {JSON: {"schema": schema}}}
    return found


def _bare(media: str) -> str:
    return media.partition(";")[0].strip()


def _text(handle: Callable[..., Any]) -> str:
    """What a handler says of itself; one that is an object of a class, by its class."""
    return (handle.__doc__ or "").strip()


def _shape_of_error(api: Api) -> dict[str, Any]:
    """The schema of an API's errors, by an example."""
    return _shape(msgspec.to_builtins(api.error(Problem("invalid", "why"), "req_0")))


def _shape(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        inside = {str(name): _shape(one) for name, one in value.items()}
        return {"type": "object", "properties": inside, "required": sorted(inside)}
    return {"type": "string"} if isinstance(value, str) else {}


class Description:
    """The handler; what it answers is made once, by the first who asks."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._routes = routes
        self._made: bytes | None = None

    async def __call__(self, exchange: Exchange) -> ASGIApp:
        """The description that this is."""
        if self._made is None:
            self._made = msgspec.json.encode(description(self._routes))
        return Response(self._made, media_type=JSON)
