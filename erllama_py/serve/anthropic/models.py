"""`GET /v1/models`, `GET /v1/models/{name}` as Anthropic's clients read them."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import QueryParams
from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.problems import Problem

UNKNOWN = "1970-01-01T00:00:00Z"  # what Anthropic's reference says of a date that is not known
LIMIT, MOST = 20, 1000  # models of a page


async def models(exchange: Exchange) -> ASGIApp:
    """A page of the models, each by all of its names."""
    served = exchange.service.models()
    names, more = page(list(served), exchange.request.query_params)
    body = {
        "data": [described(name, served[name]) for name in names], "has_more": more,
        "first_id": names[0] if names else None, "last_id": names[-1] if names else None,
    }  # fmt: skip
    return json_response(body, headers={"request-id": exchange.id})


async def one_model(exchange: Exchange) -> ASGIApp:
    """One model by a name. Raises `Problem` where there is none."""
    name = exchange.request.path_params["name"]
    return json_response(described(name, exchange.info(name)), headers={"request-id": exchange.id})


def page(names: list[str], asked: QueryParams) -> tuple[list[str], bool]:
    """The names of a page, and whether there are more in its direction. Raises `Problem`."""
    limit = asked.get("limit", str(LIMIT))
    if not limit.isascii() or not limit.isdecimal() or not 1 <= int(limit[:9]) <= MOST:
        raise Problem("invalid", f"a number from 1 to {MOST} is expected", param="limit")
    size = int(limit)
    if (after := asked.get("after_id")) is not None:
        rest = names[_place(names, after, "after_id") + 1 :]
        return rest[:size], len(rest) > size
    if (before := asked.get("before_id")) is not None:
        rest = names[: _place(names, before, "before_id")]
        return rest[-size:], len(rest) > size
    return names[:size], len(names) > size


def _place(names: list[str], name: str, param: str) -> int:
    if name not in names:
        raise Problem("invalid", f"there is no model {name[:80]!r} here", param=param)
    return names.index(name)


def described(name: str, info: erllama.ModelInfo) -> dict[str, Any]:
    """A model."""
    return {
        "type": "model", "id": name, "display_name": name, "created_at": UNKNOWN, "lifecycle": "active",
        "max_input_tokens": info.context_size, "max_tokens": info.context_size, "capabilities": None,
    }  # fmt: skip
