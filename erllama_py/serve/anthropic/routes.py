"""The routes of Anthropic's API. Those of models it shares with OpenAI's, and a header of its clients decides."""

from __future__ import annotations

from starlette.routing import Route

from erllama_py.serve.anthropic.messages import count_tokens, messages
from erllama_py.serve.anthropic.models import models, one_model
from erllama_py.serve.anthropic.protocol import API, VERSION, MessagesRequest, Prompt
from erllama_py.serve.core.api import JSON
from erllama_py.serve.core.endpoint import route
from erllama_py.serve.core.service import Service
from erllama_py.serve.core.streams import SSE


def routes(service: Service) -> list[Route]:
    """Below `/v1`; to be put before those of OpenAI's."""
    return [
        route(service, API, "/v1/messages", messages, takes=MessagesRequest, gives=(JSON, SSE), lasts=True),
        route(service, API, "/v1/messages/count_tokens", count_tokens, takes=Prompt),
        route(service, API, "/v1/models", models, method="GET", header=VERSION),
        route(service, API, "/v1/models/{name:path}", one_model, method="GET", header=VERSION),
    ]
