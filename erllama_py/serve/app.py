"""`create_app`: every API of the server as one ASGI application, to be mounted or run alone.

    app = create_app(runtime)  # opened in the lifespan of the host
    host = Starlette(routes=[Mount("/llm", app)], lifespan=…)

    app = create_app(read_config("server.toml"))  # opens a runtime of its own, in `app.running()` or its own lifespan

A host does not run the lifespan of an application that is mounted in it: it enters `app.running()` in its own. It needs
the extra `serve`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from os import PathLike

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

import erllama_py as erllama
from erllama_py.memory import available_memory
from erllama_py.serve.access import AccessOpts, Doors, KeyAccess
from erllama_py.serve.anthropic import routes as anthropic
from erllama_py.serve.batches import routes as batches
from erllama_py.serve.config import Config, read_config, with_sizes
from erllama_py.serve.core.api import new_id
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.served import Loaded
from erllama_py.serve.core.service import Access, Meters, Service
from erllama_py.serve.core.settings import ServerOpts
from erllama_py.serve.demand import Keeper, Load, Reloading, check_fits, settle
from erllama_py.serve.ollama import routes as ollama
from erllama_py.serve.openai import routes as openai
from erllama_py.serve.operations import routes as operations
from erllama_py.serve.operations.meters import RequestMeters
from erllama_py.serve.operations.tracing import Traces
from erllama_py.serve.page import routes as page
from erllama_py.serve.responses import routes as responses
from erllama_py.serve.responses.routes import store_of
from erllama_py.serve.responses.store import Store
from erllama_py.serve.resuming import routes as resuming
from erllama_py.serve.shapes import api_of


class App(Starlette):
    """The application; `service` is what its requests share, `access` who may use it."""

    def __init__(
        self, service: Service, access: AccessOpts, store: Store, files_directory: str | PathLike[str] | None = None
    ) -> None:
        handlers = {404: _nothing_there, 405: _nothing_there}
        served = [
            *anthropic.routes(service), *openai.routes(service), *responses.routes(service, store),
        ]  # fmt: skip
        room = batches.Room(service, served, files_directory)
        served += [
            *room.routes(), *resuming.routes(service), *operations.routes(service), *page.routes(service),
            *ollama.routes(service),
        ]  # fmt: skip
        super().__init__(
            routes=[*served, operations.describing(service, served)],
            exception_handlers=handlers,
            middleware=[Middleware(Traces), Middleware(Doors, options=lambda: self.access, api_of=api_of)],
            lifespan=_lifespan,
        )
        self.service = service
        self.access: AccessOpts = access
        self._store, self._batches = store, room.batches
        self._configured: tuple[Config, Keeper, int] | None = None
        self.applied: Callable[[Config], object] = lambda config: None
        """Called with each configuration that holds from then on, when that was read again."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. A slash at the end of its path is none: Litestar puts one there, and so do people. The page
        has one, also below where it is mounted."""
        if scope["type"] in ("http", "websocket") and (path := scope["path"]).endswith("/"):
            root = scope.get("root_path", "")
            scope = {**scope, "path": path.rstrip("/") if path.removeprefix(root).strip("/") else f"{root}/"}
        await super().__call__(scope, receive, send)

    @asynccontextmanager
    async def running(self, load: Load | None = None) -> AsyncIterator[None]:
        """While it serves: to be entered once, in the lifespan of a host. At its end no request is let in any more, and
        those that are open have `drain_seconds`.

        An application of a configuration opens its runtime here, and loads the models that are to be there from the
        start, by `load` where that is given: requests for those get 503 until they are loaded. Raises what `Runtime`
        and `load_model` raise, and `DoesNotFit`.
        """
        if self._configured is None:
            self._batches.resume()
            yield
            await self._drain()
            return
        config, keeper, free = self._configured
        async with self.service.runtime as runtime:
            memory = await settle(runtime, config, free)
            await check_fits(config, memory)
            try:
                await keeper.open(memory.budget, memory.reserved, load)
                self._batches.resume()
                yield
                await self._drain()
            finally:
                await keeper.close()

    def configure(self, config: Config, given: Given, reread: Callable[[], Config] | None) -> None:
        """Have its models from a configuration, once, before it runs; `reread` reads it again."""
        runtime, server = self.service.runtime, config.server
        keeper = Keeper(runtime, config.models, server.keep_alive, server.wait_seconds)
        free = available_memory()  # before anything is loaded
        self._configured = (config, keeper, free)
        self.service.served = keeper
        if reread is not None:
            self.service.reload = Reloading(
                runtime, keeper, config, free, lambda: given.over(reread()), lambda new: given.apply(self, new)
            )

    async def _drain(self) -> None:
        if not self.service.open.draining:  # else whoever did it has waited as long as it wants
            await self.service.open.drain(self.service.settings.drain_seconds)
        await self.service.lasting.close()
        await self._batches.close()
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
    reread: Callable[[], Config] | None = None,
    files_directory: str | PathLike[str] | None = None,
) -> App:
    """The application over a runtime, which may be opened later, or of a configuration: requests get 503 until then.

    `aliases` are further names of models, by name; `only` are the ids of those that are served, all by default.
    Without `access` only this machine is served; a host that admits requests by itself gives an `Access` of its own. In
    `responses_directory` answers of `/v1/responses` outlive the process; without one they are kept in memory. In
    `files_directory` files and batches do; without one they are in a temporary directory, which ends with the process.
    Without other `meters` requests are measured for `/metrics`. What is given here goes before a configuration.
    `reread` gives the configuration that is to hold from then on, where that is read again: by default what its file
    says. The files of models whose sizes the configuration leaves open, or that share a bound of memory, are looked at,
    which takes some tenths of a second each. Raises `InvalidOption`, and as `inspect_model` does.
    """
    if isinstance(source, Config):
        given = Given(settings, access, aliases or {}, None if only is None else frozenset(only))
        config = with_sizes(given.over(source))
        runtime = erllama.Runtime(**config.runtime_options())
        where = Directories(
            responses_directory or config.server.responses_directory, files_directory or config.server.files_directory
        )
        app = _made(runtime, config.server, given.names(config), None, access or config.access, meters, where)
        again = reread or (None if source.file is None else partial(read_config, source.file))
        app.configure(config, given, again)
        return app
    where = Directories(responses_directory, files_directory)
    return _made(source, settings or ServerOpts(), aliases or {}, only, access, meters, where)


class Directories(msgspec.Struct, frozen=True):
    """Where what clients give it to keep outlives the process."""

    responses: str | PathLike[str] | None
    files: str | PathLike[str] | None


def _made(
    runtime: erllama.Runtime, settings: ServerOpts, aliases: Mapping[str, str], only: Iterable[str] | None,
    access: AccessOpts | Access | None, meters: Meters | None, where: Directories,
) -> App:  # fmt: skip
    doors = AccessOpts() if access is None else access
    if isinstance(doors, AccessOpts):
        admission: Access = KeyAccess(doors)
    else:
        admission, doors = doors, AccessOpts(insecure=True)
    service = Service(
        runtime, settings, aliases=aliases, served=Loaded(runtime, only), access=admission,
        meters=meters or RequestMeters(),
    )  # fmt: skip
    return App(service, doors, store_of(settings, where.responses), where.files)


class Given(msgspec.Struct, frozen=True):
    """What a program says itself: it goes before a configuration, also before one that is read again."""

    settings: ServerOpts | None
    access: AccessOpts | Access | None
    aliases: Mapping[str, str]
    only: frozenset[str] | None

    def over(self, config: Config) -> Config:
        """A configuration with this before it."""
        models = tuple(one for one in config.models if self.only is None or one.name in self.only)
        server = config.server
        if self.settings is not None:
            server = msgspec.structs.replace(server, **msgspec.structs.asdict(self.settings))
        access = self.access if isinstance(self.access, AccessOpts) else config.access
        return msgspec.structs.replace(config, models=models, server=server, access=access)

    def names(self, config: Config) -> dict[str, str]:
        """All further names of models."""
        return {**config.aliases(), **self.aliases}

    def apply(self, app: App, config: Config) -> None:
        """Make all of a configuration hold that is not about the memory of models."""
        service = app.service
        service.settings, service.open.places.most = config.server, config.server.max_open
        service.lasting.settings = config.server
        service.aliases = self.names(config)
        if isinstance(service.access, KeyAccess):
            service.access.change(config.access)
            app.access = config.access
        app.applied(config)


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
