"""`create_app`: every API of the server as one ASGI application, to be mounted or run alone.

    app = create_app(runtime)  # opened in the lifespan of the host
    host = Starlette(routes=[Mount("/llm", app)], lifespan=…)

It needs the extra `serve`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

import erllama_py as erllama
from erllama_py.serve.access import AccessOpts, Doors, KeyAccess
from erllama_py.serve.anthropic import protocol as anthropic_protocol
from erllama_py.serve.anthropic import routes as anthropic
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.service import Access, Meters, Service
from erllama_py.serve.core.settings import ServerOpts
from erllama_py.serve.openai import protocol
from erllama_py.serve.openai import routes as openai
from erllama_py.serve.operations import routes as operations
from erllama_py.serve.operations.meters import RequestMeters
from erllama_py.serve.responses import routes as responses
from erllama_py.serve.responses.routes import store_of
from erllama_py.serve.responses.store import Store

_OPENAI, _ANTHROPIC = protocol.API, anthropic_protocol.API


class App(Starlette):
    """The application; `service` is what its requests share."""

    def __init__(self, service: Service, doors: AccessOpts, store: Store) -> None:
        handlers = {404: _nothing_there, 405: _nothing_there}
        super().__init__(
            routes=[
                *anthropic.routes(service), *openai.routes(service), *responses.routes(service, store),
                *operations.routes(service),
            ],
            exception_handlers=handlers,
            middleware=[Middleware(Doors, options=doors, api=_OPENAI)],
        )  # fmt: skip
        self.service = service


def create_app(
    runtime: erllama.Runtime,
    *,
    settings: ServerOpts | None = None,
    aliases: Mapping[str, str] | None = None,
    only: Iterable[str] | None = None,
    access: AccessOpts | Access | None = None,
    meters: Meters | None = None,
    responses_directory: str | PathLike[str] | None = None,
) -> App:
    """The application over a runtime, which may be opened later: requests get 503 until then.

    `aliases` are further names of models, by name; `only` are the ids of those that are served, all by default.
    Without `access` only this machine is served; a host that admits requests by itself gives an `Access` of its own. In
    `responses_directory` answers of `/v1/responses` outlive the process; without one they are kept in memory. Without
    other `meters` requests are measured for `/metrics`. Raises `InvalidOption`.
    """
    doors = AccessOpts() if access is None else access
    if isinstance(doors, AccessOpts):
        admission: Access = KeyAccess(doors)
    else:
        admission, doors = doors, AccessOpts(insecure=True)
    service = Service(
        runtime, settings or ServerOpts(), aliases=aliases, only=only, access=admission,
        meters=meters or RequestMeters(),
    )  # fmt: skip
    return App(service, doors, store_of(service.settings, responses_directory))


async def _nothing_there(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    _measure_stray(request.app.service.meters, status)
    method, path = request.method, request.url.path[:200]
    problem = Problem("not_found", f"{method} {path} is not served here", status=status, code="unknown_endpoint")
    api = _ANTHROPIC if anthropic_protocol.VERSION in request.headers else _OPENAI
    return api.failure(problem, "")


def _measure_stray(meters: Meters, status: int) -> None:
    """A request for what is not there: its path is its client's, and no label."""
    meters.began("none", "unknown")
    meters.ended("none", "unknown", status, 0.0)
