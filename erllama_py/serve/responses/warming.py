"""`generate: false`: the prompt of a turn computed and saved, and an answer without items, for turns to go on from."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.streams import SSE
from erllama_py.serve.responses.asking import asked
from erllama_py.serve.responses.create import Create, model_of
from erllama_py.serve.responses.options import options_of
from erllama_py.serve.responses.output import Output, Shape
from erllama_py.serve.responses.protocol import ResponseRequest
from erllama_py.serve.responses.resource import begun, now, usage
from erllama_py.serve.responses.turns import Turns
from erllama_py.serve.responses.writer import EventWriter

SHAPING = ("tools", "template_kwargs", "tools_in_system", "thinking")
OF_TENANTS = ("cache_salt", "priority", "deadline", "session_id")


class Warm:
    """Prepares turns, and has them kept as `create` keeps answers."""

    def __init__(self, turns: Turns, create: Create) -> None:
        self._turns, self._create = turns, create

    async def __call__(self, exchange: Exchange) -> ASGIApp:
        """Compute the prompt of one request."""
        request = await exchange.body(ResponseRequest)
        options = options_of(request)
        turn = await self._turns.read(exchange, request)
        model = await model_of(exchange, request, turn.last)
        given = exchange.options(options | {"session_id": turn.session})
        response = begun(f"resp_{exchange.id[4:]}", request.model or model.id, request, given)
        exchange.facts |= {"response": response["id"], "generate": False}
        writer = EventWriter(response, Output(exchange.id[4:], Shape()))
        first = writer.begin()

        async def prefill(messages: Any, given: Any) -> erllama.Completion:
            shaped = {name: given[name] for name in SHAPING if given.get(name) is not None}
            tokens = await model.apply_chat_template(messages, **shaped)
            told: Any = {name: given[name] for name in OF_TENANTS if name in given}
            return await exchange.answer(model.prefill_only(tokens, options=told))

        completion = await asked(model, prefill, turn.messages, given)
        response |= {"status": "completed", "completed_at": now(), "usage": usage(completion, 0)}
        await self._create.keep(exchange, turn, response)
        return Response(first + writer.completed(response), media_type=SSE)
