"""The routes for operators. They answer while the server drains, and are no part of the requests that it bounds."""

from __future__ import annotations

from starlette.routing import Route

from erllama_py.serve.core.exchange import JSON, route
from erllama_py.serve.core.service import Service
from erllama_py.serve.operations.cache import cache
from erllama_py.serve.operations.health import health, live
from erllama_py.serve.operations.meters import RequestMeters
from erllama_py.serve.operations.metrics import Metrics
from erllama_py.serve.operations.protocol import API, TEXT
from erllama_py.serve.operations.tree import tree


def routes(service: Service) -> list[Route]:
    """Health, which is open to everybody, and the rest. `/metrics` is there where requests are measured by us."""
    found = [
        route(service, API, "/health", health, method="GET", counted=False, everybody=True),
        route(service, API, "/health/live", live, method="GET", counted=False, everybody=True),
        route(service, API, "/erllama/tree", tree, method="GET", gives=(JSON, TEXT), counted=False),
        route(service, API, "/erllama/cache", cache, method="GET", counted=False),
    ]
    if isinstance(service.meters, RequestMeters):
        page = Metrics(service, service.meters).endpoint
        found.append(route(service, API, "/metrics", page, method="GET", gives=(TEXT,), counted=False))
    return found
