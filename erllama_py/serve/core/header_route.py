"""A route of requests that have a header: so can two APIs share a path."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Scope


class HeaderRoute(Route):
    """A route of requests that have a header."""

    def __init__(self, path: str, endpoint: ASGIApp, *, methods: list[str], header: str) -> None:
        super().__init__(path, endpoint, methods=methods)
        self._header = header

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """See `Route`."""
        if scope["type"] == "http" and self._header not in Headers(scope=scope):
            return Match.NONE, {}
        return super().matches(scope)
