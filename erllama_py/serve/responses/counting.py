"""`POST /v1/responses/input_tokens`: how long the prompt of a request would be."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp

from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.responses.asking import Messages, asked
from erllama_py.serve.responses.create import model_of
from erllama_py.serve.responses.options import check_served, shaping
from erllama_py.serve.responses.protocol import TokensRequest
from erllama_py.serve.responses.turns import Turns


class Count:
    """Counts tokens without computing any."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    async def __call__(self, exchange: Exchange) -> ASGIApp:
        """Answer one request."""
        request = await exchange.body(TokensRequest)
        check_served(request)
        turn = await self._turns.read(exchange, request)
        model = await model_of(exchange, request, turn.last)

        async def attempt(messages: Messages, options: Any) -> int:
            return (await model.explain(messages, options=options)).prompt_tokens

        counted = await exchange.answer(asked(model, attempt, turn.messages, exchange.options(shaping(request))))
        return json_response({"object": "response.input_tokens", "input_tokens": counted})
