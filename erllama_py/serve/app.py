"""`create_app`: every API of the server as one ASGI application, to be mounted or run alone.

    runtime = erllama.Runtime()  # opened in the lifespan of the host
    host = Starlette(routes=[Mount("/llm", create_app(runtime))], lifespan=…)

It needs the extra `serve`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

import erllama_py as erllama
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.service import Access, Meters, Service
from erllama_py.serve.core.settings import ServerOpts
from erllama_py.serve.openai import protocol
from erllama_py.serve.openai import routes as openai
from erllama_py.serve.operations import routes as operations

_OPENAI = protocol.API


class App(Starlette):
    """The application; `service` is what its requests share."""

    def __init__(self, service: Service) -> None:
        handlers = {404: _nothing_there, 405: _nothing_there}
        super().__init__(routes=[*openai.routes(service), *operations.routes(service)], exception_handlers=handlers)
        self.service = service


def create_app(
    runtime: erllama.Runtime,
    *,
    settings: ServerOpts | None = None,
    aliases: Mapping[str, str] | None = None,
    only: Iterable[str] | None = None,
    access: Access | None = None,
    meters: Meters | None = None,
) -> App:
    """The application over a runtime, which may be opened later: requests get 503 until it is.

    `aliases` are further names of models, by name; `only` are the ids of those that are served, all by default.
    """
    service = Service(runtime, settings or ServerOpts(), aliases=aliases, only=only, access=access, meters=meters)
    return App(service)


async def _nothing_there(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    method, path = request.method, request.url.path[:200]
    problem = Problem("not_found", f"{method} {path} is not served here", status=status, code="unknown_endpoint")
    return _OPENAI.failure(problem, "")
