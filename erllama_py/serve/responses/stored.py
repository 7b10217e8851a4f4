"""Answers that are stored: shown, forgotten, their input listed; and those that are under way, cancelled."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp

from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.readers import stream_key, taken_up
from erllama_py.serve.core.taking_up import after_of
from erllama_py.serve.core.tenants import tenant_key
from erllama_py.serve.responses.running import Running
from erllama_py.serve.responses.store import Store
from erllama_py.serve.responses.turns import Turns

MOST_LISTED = 100


class Stored:
    """What can be done with an answer by its id. Another tenant's is not there."""

    def __init__(self, store: Store, turns: Turns, running: Running) -> None:
        self._store, self._turns, self._running = store, turns, running

    async def show(self, exchange: Exchange) -> ASGIApp:
        """`GET /v1/responses/{id}`: as it was given. With `stream` the events after `starting_after`, as long as its
        stream can be taken up again."""
        asked = exchange.request.query_params
        if asked.get("stream") in ("true", "1"):
            return await self._take_up(exchange, after_of(asked.get("starting_after"), "starting_after"))
        record = await self._turns.stored(tenant_key(exchange.tenant), _id(exchange))
        return json_response(record.response)

    async def _take_up(self, exchange: Exchange, starting_after: int | None) -> ASGIApp:
        key = stream_key(exchange, _id(exchange))
        if exchange.service.lasting.find(key) is None:
            await self._turns.stored(tenant_key(exchange.tenant), _id(exchange))
            message = "this answer is not streamed again: the time is over, or its request had no X-Conversation-Id"
            raise Problem("invalid", message, param="stream", code="stream_not_found")
        # Events are numbered from 0 in `sequence_number`, and from 1 in their ids.
        after = 0 if starting_after is None else starting_after + 1
        reader = await taken_up(exchange, key, None, after, "starting_after")
        assert reader is not None  # a request without a body begins nothing
        return reader

    async def forget(self, exchange: Exchange) -> ASGIApp:
        """`DELETE /v1/responses/{id}`: turns that go on from it can then not go on any more."""
        tenant, response_id = tenant_key(exchange.tenant), _id(exchange)
        await self._turns.stored(tenant, response_id)
        await self._store.delete(tenant, response_id)
        return json_response({"id": response_id, "object": "response", "deleted": True})

    async def list_input(self, exchange: Exchange) -> ASGIApp:
        """`GET /v1/responses/{id}/input_items`: the items of its own request."""
        record = await self._turns.stored(tenant_key(exchange.tenant), _id(exchange))
        return json_response(_page(record.input, exchange))

    async def cancel(self, exchange: Exchange) -> ASGIApp:
        """`POST /v1/responses/{id}/cancel`: it ends with what it has. One that is over stays as it is."""
        tenant, response_id = tenant_key(exchange.tenant), _id(exchange)
        await exchange.answer(self._running.cancel(tenant, response_id))
        return json_response((await self._turns.stored(tenant, response_id)).response)


def _id(exchange: Exchange) -> str:
    return str(exchange.request.path_params["response_id"])


def _page(items: list[dict[str, Any]], exchange: Exchange) -> dict[str, Any]:
    """A part of a list, as `limit`, `order` and `after` ask for it. Raises `Problem`."""
    asked = exchange.request.query_params
    limit, order, after = asked.get("limit", "20"), asked.get("order", "desc"), asked.get("after")
    if not (limit.isdecimal() and len(limit) < 5 and 1 <= int(limit) <= MOST_LISTED):
        raise Problem("invalid", f"limit: expected 1 to {MOST_LISTED}", param="limit")
    if order not in ("asc", "desc"):
        raise Problem("invalid", "order: expected asc or desc", param="order")
    items = items if order == "asc" else items[::-1]
    if after is not None:
        place = next((number for number, item in enumerate(items) if item["id"] == after), None)
        if place is None:
            raise Problem("invalid", "after: no item of this answer's input has this id", param="after")
        items = items[place + 1 :]
    data = items[: int(limit)]
    return {
        "object": "list", "data": data, "has_more": len(items) > len(data),
        "first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None,
    }  # fmt: skip
