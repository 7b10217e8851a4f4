"""The routes of OpenAI's API."""

from __future__ import annotations

from starlette.routing import Route

from erllama_py.serve.core.api import JSON
from erllama_py.serve.core.endpoint import route
from erllama_py.serve.core.service import Service
from erllama_py.serve.core.streams import SSE
from erllama_py.serve.openai import protocol, tokens
from erllama_py.serve.openai.chat import chat
from erllama_py.serve.openai.completions import completions
from erllama_py.serve.openai.embeddings import embeddings
from erllama_py.serve.openai.models import models, one_model
from erllama_py.serve.openai.protocol import API
from erllama_py.serve.openai.rerank import rerank


def routes(service: Service) -> list[Route]:
    """Below `/v1`; what is llama-server's own is where its clients look for it."""
    chats, streams = protocol.ChatRequest, (JSON, SSE)
    return [
        route(service, API, "/v1/chat/completions", chat, takes=chats, gives=streams, lasts=True),
        route(service, API, "/v1/chat/completions/input_tokens", tokens.count, takes=chats),
        route(
            service, API, "/v1/completions", completions, takes=protocol.CompletionRequest, gives=streams, lasts=True
        ),
        route(service, API, "/v1/embeddings", embeddings, takes=protocol.EmbeddingRequest),
        route(service, API, "/v1/rerank", rerank, takes=protocol.RerankRequest),
        route(service, API, "/rerank", rerank, takes=protocol.RerankRequest),
        route(service, API, "/v1/models", models, method="GET"),
        route(service, API, "/v1/models/{name:path}", one_model, method="GET"),
        route(service, API, "/tokenize", tokens.tokenize, takes=protocol.TokenizeRequest),
        route(service, API, "/detokenize", tokens.detokenize, takes=protocol.DetokenizeRequest),
        route(service, API, "/apply-template", tokens.apply_template, takes=chats),
    ]
