"""`POST /v1/embeddings`: vectors of texts, as numbers or as base64 of 32-bit floats."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.api import JSON
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.openai.protocol import EmbeddingRequest, needed

MOST_INPUTS = 2048  # as in OpenAI's API
AT_ONCE = 32  # vectors that are written before others get the loop again; of 1,024 numbers each takes 50 µs
_encode = msgspec.json.Encoder().encode


async def embeddings(exchange: Exchange) -> ASGIApp:
    """Embed the inputs."""
    request = await exchange.body(EmbeddingRequest)
    model = await exchange.model(needed(request.model))
    if not isinstance(request.input, str) and len(request.input) > MOST_INPUTS and not _is_tokens(request.input):
        raise Problem("too_large", f"input: at most {MOST_INPUTS} inputs are taken at a time", param="input")
    options = {
        "dimensions": request.dimensions, "truncate": _truncate(request.truncate),
        "deadline": exchange.service.settings.deadline_seconds,
    }  # fmt: skip
    given: Any = {name: value for name, value in options.items() if value is not None}
    inputs: Any = request.input
    found = await exchange.answer(model.embed(inputs, **given))
    tokens = sum(found.token_counts)
    exchange.facts |= {"inputs": len(found), "prompt_tokens": tokens}
    body = await _body(found, request.model or model.id, request.encoding_format == "base64", tokens)
    return Response(body, headers={"x-request-id": exchange.id}, media_type=JSON)


def _is_tokens(given: list[Any]) -> bool:
    return bool(given) and isinstance(given[0], int)


def _truncate(given: bool | str | None) -> bool | str | None:
    """Also as other servers have it, in capitals."""
    return None if given == "NONE" else given.lower() if isinstance(given, str) else given


async def _body(found: erllama.Embeddings, model: str, packed: bool, tokens: int) -> bytes:
    parts = []
    for index, vector in enumerate(found):
        numbers = base64.b64encode(vector.astype("<f4").tobytes()).decode() if packed else vector.tolist()
        parts.append(_encode({"object": "embedding", "index": index, "embedding": numbers}))
        if index % AT_ONCE == AT_ONCE - 1:
            await asyncio.sleep(0)
    rest = {"model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    return b'{"object":"list","data":[' + b",".join(parts) + b"]," + _encode(rest)[1:]
