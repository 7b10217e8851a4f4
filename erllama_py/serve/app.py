"""`create_app`: every API of the server as one ASGI application, to be mounted or run alone.

    app = create_app(runtime)  # opened in the lifespan of the host
    host = Starlette(routes=[Mount("/llm", app)], lifespan=…)

    app = create_app(read_config("server.toml"))  # opens a runtime of its own, in `app.running()` or its own lifespan

A host does not run the lifespan of an application that is mounted in it: it enters `app.running()` in its own. It needs
the extra `serve`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from os import PathLike

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

import erllama_py as erllama
from erllama_py.serve.access import AccessOpts, Doors, KeyAccess
from erllama_py.serve.anthropic import routes as anthropic
from erllama_py.serve.config import Config, ServedModel, with_sizes
from erllama_py.serve.core.exchange import new_id
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.served import Loaded
from erllama_py.serve.core.service import Access, Meters, Service
from erllama_py.serve.core.settings import ServerOpts
from erllama_py.serve.ollama import routes as ollama
from erllama_py.serve.openai import routes as openai
from erllama_py.serve.operations import routes as operations
from erllama_py.serve.operations.meters import RequestMeters
from erllama_py.serve.operations.tracing import Traces
from erllama_py.serve.responses import routes as responses
from erllama_py.serve.responses.routes import store_of
from erllama_py.serve.responses.store import Store
from erllama_py.serve.shapes import api_of

Load = Callable[[erllama.Runtime, ServedModel], Awaitable[object]]


class App(Starlette):
    """The application; `service` is what its requests share."""

    def __init__(self, service: Service, doors: AccessOpts, store: Store, config: Config | None = None) -> None:
        handlers = {404: _nothing_there, 405: _nothing_there}
        served = [
            *anthropic.routes(service), *openai.routes(service), *responses.routes(service, store),
            *operations.routes(service), *ollama.routes(service),
        ]  # fmt: skip
        super().__init__(
            routes=[*served, operations.describing(service, served)],
            exception_handlers=handlers,
            middleware=[Middleware(Traces), Middleware(Doors, options=doors, api_of=api_of)],
            lifespan=_lifespan,
        )
        self.service = service
        self._config, self._store = config, store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. A slash at the end of its path is none: Litestar puts one there, and so do people."""
        if scope["type"] == "http" and len(path := scope["path"]) > 1 and path.endswith("/"):
            scope = {**scope, "path": path.rstrip("/") or "/"}
        await super().__call__(scope, receive, send)

    @asynccontextmanager
    async def running(self, load: Load | None = None) -> AsyncIterator[None]:
        """While it serves: to be entered once, in the lifespan of a host. At its end no request is let in any more, and
        those that are open have `drain_seconds`.

        An application of a configuration opens its runtime and loads its models here, by `load` where that is given:
        requests get 503 until they are loaded. Raises what `Runtime` and `load_model` raise.
        """
        if self._config is None:
            yield
            await self._drain()
            return
        async with self.service.runtime as runtime:
            for model in self._config.models:
                await (load or _load)(runtime, model)
            yield
            await self._drain()

    async def _drain(self) -> None:
        if not self.service.open.draining:  # else whoever did it has waited as long as it wants
            await self.service.open.drain(self.service.settings.drain_seconds)
        await self._store.close()


def create_app(
    source: erllama.Runtime | Config,
    *,
    settings: ServerOpts | None = None,
    aliases: Mapping[str, str] | None = None,
    only: Iterable[str] | None = None,
    access: AccessOpts | Access | None = None,
    meters: Meters | None = None,
    responses_directory: str | PathLike[str] | None = None,
) -> App:
    """The application over a runtime, which may be opened later, or of a configuration: requests get 503 until then.

    `aliases` are further names of models, by name; `only` are the ids of those that are served, all by default.
    Without `access` only this machine is served; a host that admits requests by itself gives an `Access` of its own. In
    `responses_directory` answers of `/v1/responses` outlive the process; without one they are kept in memory. Without
    other `meters` requests are measured for `/metrics`. The files of models whose sizes the configuration leaves open
    are looked at, which takes some tenths of a second each. Raises `InvalidOption`, and as `inspect_model` does.
    """
    config = with_sizes(source) if isinstance(source, Config) else None
    runtime = source if isinstance(source, erllama.Runtime) else erllama.Runtime(**source.runtime_options())
    if config is not None:
        settings = settings or config.server
        aliases = {**config.aliases(), **(aliases or {})}
        only = [model.name for model in config.models] if only is None else only
        access = access or config.access
        responses_directory = responses_directory or config.server.responses_directory
    doors = AccessOpts() if access is None else access
    if isinstance(doors, AccessOpts):
        admission: Access = KeyAccess(doors)
    else:
        admission, doors = doors, AccessOpts(insecure=True)
    service = Service(
        runtime, settings or ServerOpts(), aliases=aliases, served=Loaded(runtime, only), access=admission,
        meters=meters or RequestMeters(),
    )  # fmt: skip
    return App(service, doors, store_of(service.settings, responses_directory), config)


async def _load(runtime: erllama.Runtime, model: ServedModel) -> None:
    await runtime.load_model(model.name, model.config)


@asynccontextmanager
async def _lifespan(app: App) -> AsyncIterator[None]:
    async with app.running():
        yield


async def _nothing_there(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    _measure_stray(request.app.service.meters, status)
    method, path = request.method, request.url.path[:200]
    nearest = _nearest(
        path.removeprefix(request.scope.get("root_path", "")),
        {getattr(route, "path", "") for route in request.app.routes},
    )
    hint = f"; did you mean {nearest}?" if nearest else ""
    problem = Problem("not_found", f"{method} {path} is not served here{hint}", status=status, code="unknown_endpoint")
    response = api_of(request.scope).failure(problem, new_id())
    response.headers.update(getattr(error, "headers", None) or {})  # which methods there are
    return response


def _nearest(path: str, served: Collection[str]) -> str | None:
    """The path that a client means whose base URL has no `/v1`, or one too many."""
    return next((one for one in (f"/v1{path}", path.removeprefix("/v1")) if one != path and one in served), None)


def _measure_stray(meters: Meters, status: int) -> None:
    """A request for what is not there: its path is its client's, and no label."""
    meters.began("none", "unknown")
    meters.ended("none", "unknown", status, 0.0)
