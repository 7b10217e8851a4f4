"""The routes for operators. They answer while the server drains, and are no part of the requests that it bounds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from starlette.routing import BaseRoute, Route

import erllama_py as erllama
from erllama_py.serve.core.api import JSON
from erllama_py.serve.core.endpoint import route
from erllama_py.serve.core.served import Changes, ModelState, ServedState
from erllama_py.serve.core.service import Service
from erllama_py.serve.operations.cache import Report, cache
from erllama_py.serve.operations.cache_rows import LINES, Freed, RemoveBody, VerifyBody, gc, remove, rows, verify
from erllama_py.serve.operations.health import Health, health, live
from erllama_py.serve.operations.meters import RequestMeters
from erllama_py.serve.operations.metrics import Metrics
from erllama_py.serve.operations.models import load, models, reload, unload
from erllama_py.serve.operations.openapi import Description
from erllama_py.serve.operations.protocol import API, TEXT
from erllama_py.serve.operations.tree import tree


def routes(service: Service) -> list[Route]:
    """Health, which is open to everybody, and the rest. `/metrics` is there where requests are measured by us."""
    watched = partial(route, service, API, method="GET", counted=False)
    operated = partial(route, service, API, counted=False)
    healths = {200: Health, 503: Health}
    found = [
        watched("/health", health, answers=healths, everybody=True),
        watched("/health/live", live, answers=healths, everybody=True),
        watched("/erllama/models", models, answers={200: ServedState}),
        operated("/erllama/models/{name:path}/load", load, answers={200: ModelState}),
        operated("/erllama/models/{name:path}/unload", unload, answers={200: ModelState}),
        operated("/erllama/reload", reload, answers={200: Changes}),
        watched("/erllama/tree", tree, gives=(JSON, TEXT), answers={200: erllama.TreeNode}),
        watched("/erllama/cache", cache, answers={200: Report}),
        watched("/erllama/cache/rows", rows, gives=(LINES,)),
        operated("/erllama/cache/remove", remove, takes=RemoveBody, answers={200: erllama.RowsRemoved}),
        operated("/erllama/cache/verify", verify, takes=VerifyBody, gives=(LINES,)),
        operated("/erllama/cache/gc", gc, answers={200: Freed}),
    ]
    if isinstance(service.meters, RequestMeters):
        found.append(watched("/metrics", Metrics(service, service.meters).endpoint, gives=(TEXT,)))
    return found


def describing(service: Service, routes: Sequence[BaseRoute]) -> Route:
    """The route that describes others."""
    found = Description(list(routes))
    return route(service, API, "/openapi.json", found, method="GET", counted=False)  # it names the version
