"""The routes of Ollama's API. `/` is the last: whatever else is served there goes first."""

from __future__ import annotations

from starlette.routing import Route

from erllama_py.serve.core.api import JSON
from erllama_py.serve.core.endpoint import Endpoint, route
from erllama_py.serve.core.service import Service
from erllama_py.serve.core.streams import NDJSON
from erllama_py.serve.ollama.chat import chat
from erllama_py.serve.ollama.embeddings import embed, embeddings
from erllama_py.serve.ollama.generate import generate
from erllama_py.serve.ollama.models import ps, show, tags, version
from erllama_py.serve.ollama.others import pull, refused, root, unknown
from erllama_py.serve.ollama.protocol import (
    API,
    ChatRequest,
    EmbeddingsRequest,
    EmbedRequest,
    GenerateRequest,
    NameRequest,
)


def routes(service: Service) -> list[Route]:
    """Below `/api`, and `/`."""
    either = (NDJSON, JSON)
    return [
        route(service, API, "/api/chat", chat, takes=ChatRequest, gives=either),
        route(service, API, "/api/generate", generate, takes=GenerateRequest, gives=either),
        route(service, API, "/api/embed", embed, takes=EmbedRequest),
        route(service, API, "/api/embeddings", embeddings, takes=EmbeddingsRequest),
        route(service, API, "/api/show", show, takes=NameRequest),
        route(service, API, "/api/pull", pull, takes=NameRequest, gives=either),
        *(
            route(service, API, path, ask, method="GET", counted=False)
            for path, ask in (("/api/version", version), ("/api/tags", tags), ("/api/ps", ps))
        ),
        *(
            route(service, API, path, refused, method=method)
            for path, method in (
                ("/api/create", "POST"),
                ("/api/copy", "POST"),
                ("/api/push", "POST"),
                ("/api/delete", "DELETE"),
            )
        ),
        *(
            Route(path, Endpoint(service, API, "/api/*", unknown), include_in_schema=False)
            for path in ("/api", "/api/{path:path}")
        ),
        route(service, API, "/", root, method="GET", gives=("text/plain",), counted=False),
    ]
