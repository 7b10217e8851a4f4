"""The routes of OpenAI's API."""

from __future__ import annotations

from starlette.routing import Route

from erllama_py.serve.core.exchange import JSON, route
from erllama_py.serve.core.service import Service
from erllama_py.serve.core.streams import SSE
from erllama_py.serve.openai.chat import chat
from erllama_py.serve.openai.models import models, one_model
from erllama_py.serve.openai.protocol import API, ChatRequest


def routes(service: Service) -> list[Route]:
    """Below `/v1`."""
    return [
        route(service, API, "/v1/chat/completions", chat, takes=ChatRequest, gives=(JSON, SSE)),
        route(service, API, "/v1/models", models, method="GET"),
        route(service, API, "/v1/models/{name:path}", one_model, method="GET"),
    ]
