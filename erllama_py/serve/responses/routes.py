"""The routes of Open Responses."""

from __future__ import annotations

import secrets
from os import PathLike
from pathlib import Path

from starlette.routing import BaseRoute, WebSocketRoute

from erllama_py.serve.core.api import JSON
from erllama_py.serve.core.endpoint import route
from erllama_py.serve.core.service import Service
from erllama_py.serve.core.settings import ServerOpts
from erllama_py.serve.core.streams import SSE
from erllama_py.serve.responses.compaction import Compact
from erllama_py.serve.responses.counting import Count
from erllama_py.serve.responses.create import Create
from erllama_py.serve.responses.directory import DirectoryStore
from erllama_py.serve.responses.protocol import API, ResponseRequest, TokensRequest, Turn
from erllama_py.serve.responses.running import Running
from erllama_py.serve.responses.sealing import KEY_BYTES
from erllama_py.serve.responses.socket import Sockets
from erllama_py.serve.responses.store import MemoryStore, Store
from erllama_py.serve.responses.stored import Stored
from erllama_py.serve.responses.turns import Turns

ONE = "/v1/responses/{response_id}"


def store_of(settings: ServerOpts, directory: str | PathLike[str] | None) -> Store:
    """Where answers are kept: in a directory, else in memory."""
    bounds = (settings.max_stored_responses, settings.max_stored_bytes)
    if directory is None:
        return MemoryStore(*bounds, secrets.token_bytes(KEY_BYTES))
    return DirectoryStore(Path(directory), *bounds)


def routes(service: Service, store: Store) -> list[BaseRoute]:
    """Below `/v1/responses`; answers are kept in the store."""
    turns, running = Turns(store), Running()
    create, stored = Create(store, turns, running), Stored(store, turns, running)
    return [
        route(service, API, "/v1/responses", create, takes=ResponseRequest, gives=(JSON, SSE), lasts=True),
        WebSocketRoute("/v1/responses", Sockets(service, store, running)),
        route(service, API, "/v1/responses/compact", Compact(turns), takes=Turn),
        route(service, API, "/v1/responses/input_tokens", Count(turns), takes=TokensRequest),
        route(service, API, ONE, stored.show, method="GET"),
        route(service, API, ONE, stored.forget, method="DELETE"),
        route(service, API, ONE + "/input_items", stored.list_input, method="GET"),
        route(service, API, ONE + "/cancel", stored.cancel),
    ]
