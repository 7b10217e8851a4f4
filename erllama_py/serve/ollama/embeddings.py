"""`POST /api/embed`, and `POST /api/embeddings` of old: texts as vectors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.api import JSON, json_response
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.ollama.lines import nanoseconds
from erllama_py.serve.ollama.protocol import EmbeddingsRequest, EmbedRequest
from erllama_py.serve.ollama.staying import model_of

_encode = msgspec.json.Encoder().encode
MOST_INPUTS = 2048  # as /v1/embeddings takes
AT_ONCE = 20_000  # numbers that are written without a look at other requests: about 4 ms


async def embed(exchange: Exchange) -> ASGIApp:
    """Vectors of length 1. Texts that are too long are cut, unless `truncate` is false."""
    request = await exchange.body(EmbedRequest)
    model = await model_of(exchange, request)
    named = request.model or model.id
    if not request.input:
        await exchange.answer(model.tokenize(""))
        return json_response({"model": named, "embeddings": []})
    options: Any = {} if request.dimensions is None else {"dimensions": request.dimensions}
    texts = [request.input] if isinstance(request.input, str) else request.input
    if len(texts) > MOST_INPUTS:
        raise Problem("too_large", f"input: at most {MOST_INPUTS} texts are taken at a time", param="input")
    found = await exchange.answer(_embed(exchange, model, texts, truncate=request.truncate is not False, **options))
    head = {
        "model": named, "total_duration": nanoseconds(asyncio.get_running_loop().time() - exchange.began),
        "load_duration": 0, "prompt_eval_count": sum(found.token_counts),
    }  # fmt: skip
    return Response(await _written(head, found), media_type=JSON)


async def embeddings(exchange: Exchange) -> ASGIApp:
    """The vector of one text, at its own length."""
    request = await exchange.body(EmbeddingsRequest)
    model = await model_of(exchange, request)
    if not request.prompt:
        await exchange.answer(model.tokenize(""))
        return json_response({"embedding": []})
    found = await exchange.answer(_embed(exchange, model, [request.prompt], truncate=True, normalize=False))
    return json_response({"embedding": found.vector.tolist()})


async def _embed(exchange: Exchange, model: erllama.Model, texts: Sequence[str], **options: Any) -> erllama.Embeddings:
    found = await model.embed(texts, deadline=exchange.service.settings.deadline_seconds, **options)
    tokens = sum(found.token_counts)
    exchange.facts |= {"inputs": len(found), "prompt_tokens": tokens}
    return found


async def _written(head: dict[str, Any], found: erllama.Embeddings) -> bytes:
    """The response as JSON, a few vectors at a time: thousands of them would hold the event loop up."""
    parts, since = list[bytes](), 0
    for vector in found:
        parts.append(_encode(vector.tolist()))
        since += len(vector)
        if since > AT_ONCE:
            since = 0
            await asyncio.sleep(0)
    return _encode(head)[:-1] + b',"embeddings":[' + b",".join(parts) + b"]}"
