"""`POST /v1/rerank`: documents by how well they answer a query, in the form that Jina's and Cohere's clients read."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.openai.protocol import RerankRequest

MOST_DOCUMENTS = 2048


async def rerank(exchange: Exchange) -> ASGIApp:
    """Rank the documents."""
    request = await exchange.body(RerankRequest)
    model = await exchange.model(request.model)
    if len(request.documents) > MOST_DOCUMENTS:
        message = f"documents: at most {MOST_DOCUMENTS} are taken at a time"
        raise Problem("too_large", message, param="documents")
    documents = [one if isinstance(one, str) else one.text for one in request.documents]
    method = request.method or method_of(model.info)
    options = {"top_n": request.top_n, "method": method, "truncate": True, **exchange.of_tenant()}
    given: Any = {name: value for name, value in options.items() if value is not None}
    ranking = await exchange.answer(model.rerank(request.query, documents, **given))
    tokens = sum(one.tokens for one in ranking)
    exchange.facts |= {"documents": len(documents), "prompt_tokens": tokens}
    body = {
        "id": f"rerank-{exchange.id[4:]}", "object": "list", "model": request.model or model.id,
        "results": [_result(one, bool(request.return_documents)) for one in ranking],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }  # fmt: skip
    return json_response(body, headers={"x-request-id": exchange.id})


def method_of(info: erllama.ModelInfo) -> str | None:
    """How a model ranks where its client cannot say: by its head, else by vectors where it was made for those."""
    return None if info.can_rank or info.can_generate else "embeddings"


def _result(one: erllama.RankedDocument, shown: bool) -> dict[str, Any]:
    result = {"index": one.index, "relevance_score": one.score}
    return result | {"document": {"text": one.document}} if shown else result
