"""`GET /v1/models`, `GET /v1/models/{name}`: what is served."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange


async def models(exchange: Exchange) -> ASGIApp:
    """All models by each of their names."""
    served = exchange.models()
    return json_response({"object": "list", "data": [described(name, info) for name, info in served.items()]})


async def one_model(exchange: Exchange) -> ASGIApp:
    """One model by a name. Raises `Problem` where there is none."""
    name = exchange.request.path_params["name"]
    return json_response(described(name, exchange.info(name)))


def described(name: str, info: erllama.ModelInfo) -> dict[str, Any]:
    """A model as OpenAI's clients read it, and in `meta`, as llama-server's do, what is known of its file."""
    return {
        "id": name, "object": "model", "created": 0, "owned_by": "erllama_py",
        "meta": {"n_ctx": info.context_size, "n_ctx_train": info.n_ctx_train, "n_params": info.n_params,
                 "n_vocab": info.n_vocab, "size": info.size},
    }  # fmt: skip
