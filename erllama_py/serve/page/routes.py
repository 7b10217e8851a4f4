"""The routes of the page: its files, which are for everybody and say nothing of the server, and what it reads."""

from __future__ import annotations

from functools import partial

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Scope

from erllama_py.serve.core.api import JSON
from erllama_py.serve.core.endpoint import Endpoint, route
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.service import Service
from erllama_py.serve.operations.protocol import API
from erllama_py.serve.page.assets import HEADERS, INDEX, MEDIA, Asset, below, load
from erllama_py.serve.page.crash import Crashed, CrashRequest, Drills
from erllama_py.serve.page.feed import Feed
from erllama_py.serve.page.live import EVENT_STREAM, Live
from erllama_py.serve.page.reading import read
from erllama_py.serve.page.snapshot import Snapshot


def routes(service: Service) -> list[Route]:
    """Before those of other APIs that serve `/`: they get the requests that ask for no page."""
    feed = Feed(partial(read, service))
    watched = partial(route, service, API, counted=False)
    found = [
        watched("/erllama/live", Live(feed), method="GET", gives=(JSON, EVENT_STREAM), answers={200: Snapshot}),
        watched("/erllama/models/{name:path}/crash", Drills(), takes=CrashRequest, answers={200: Crashed}),
    ]
    if service.settings.page:
        page = Page(load())
        endpoint = Endpoint(service, API, "/", page.index, gives=(MEDIA[".html"],), counted=False, everybody=True)
        found += [
            PageRoute("/", endpoint, methods=["GET"], include_in_schema=False),  # another API's `/` is described
            watched("/page/{name}", page.file, method="GET", gives=tuple(MEDIA.values()), everybody=True),
        ]
    return found


class PageRoute(Route):
    """A route of requests for a page: those of browsers. Others that serve this path get the rest."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """See `Route`."""
        match = super().matches(scope)
        if match[0] is not Match.NONE and "text/html" not in Headers(scope=scope).get("accept", ""):
            return Match.NONE, {}
        return match


class Page:
    """The handlers of the files."""

    def __init__(self, assets: dict[str, Asset]) -> None:
        self._assets = assets

    async def index(self, exchange: Exchange) -> ASGIApp:
        """The page, for browsers."""
        scope = exchange.request.scope  # hosts tell where they have put an application by either of these
        path = (scope.get("raw_path") or b"").decode("latin-1") or scope.get("root_path", "")
        found = below(self._assets[INDEX], path)
        return _sent(found, exchange, {"vary": "accept"})

    async def file(self, exchange: Exchange) -> ASGIApp:
        """A file of the page. Raises `Problem` for others."""
        name = exchange.request.path_params["name"]
        if name == INDEX or name not in self._assets:
            raise Problem("not_found", "there is no such file of the page", code="unknown_file")
        return _sent(self._assets[name], exchange, {})


def _sent(found: Asset, exchange: Exchange, headers: dict[str, str]) -> Response:
    headers = {**HEADERS, **headers, "etag": found.tag}
    if exchange.request.headers.get("if-none-match") == found.tag:
        return Response(status_code=304, headers=headers)
    return Response(found.body, headers=headers, media_type=found.media_type)
