"""`POST /v1/responses`: a turn answered, whole or as a stream of events, and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.logs import log_failure
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.readers import name_stream
from erllama_py.serve.core.tenants import tenant_key
from erllama_py.serve.responses.asking import Messages, asked, collect
from erllama_py.serve.responses.options import INCLUDED, options_of
from erllama_py.serve.responses.output import Output, Shape
from erllama_py.serve.responses.protocol import ResponseRequest, Turn
from erllama_py.serve.responses.resource import begun
from erllama_py.serve.responses.running import Running
from erllama_py.serve.responses.store import NotKept, Record, Store, encode
from erllama_py.serve.responses.turns import Asked, Turns
from erllama_py.serve.responses.writer import EventWriter


async def model_of(exchange: Exchange, request: Turn, last: Record | None = None) -> erllama.Model:
    """The model that a request names, or the one of the turn before. Raises `Problem`: this API has no default."""
    name = request.model or (last.said().model if last is not None else None)
    if not name:
        raise Problem("invalid", "model: the model is to be named", param="model", code="missing_required_parameter")
    return await exchange.model(name)


Remember = Callable[[Sequence[Record], Record], None]


class Create:
    """Makes answers, and keeps them in one store; `remember` is given each of them, stored or not, and those before."""

    def __init__(self, store: Store, turns: Turns, running: Running, remember: Remember | None = None) -> None:
        self._store, self._turns, self._running, self._remember = store, turns, running, remember

    async def __call__(self, exchange: Exchange) -> ASGIApp:
        """Answer one request."""
        request = await exchange.body(ResponseRequest)
        options = options_of(request)
        if not request.model and not request.previous_response_id:
            await model_of(exchange, request)
        turn = await self._turns.read(exchange, request)
        model = await model_of(exchange, request, turn.last)
        given = exchange.options(options | {"session_id": turn.session})
        answer = f"resp_{exchange.id[4:]}"
        response = begun(answer, request.model or model.id, request, given)
        sealed = await self._turns.sealer(exchange, "reasoning") if INCLUDED[1] in (request.include or ()) else None
        shape = Shape(summary=response["reasoning"]["summary"] is not None, sealed=sealed)
        work = Work(exchange, model, response, shape, self, turn)
        exchange.facts["response"] = answer
        name_stream(exchange, answer)
        how = work.streamed if request.stream else work.whole
        return await asked(model, how, turn.messages, given, shorten=request.truncation == "auto")

    async def keep(self, exchange: Exchange, turn: Asked, response: dict[str, Any]) -> None:
        """Store an answer, unless its client wants none; where there is no room, the answer says so."""
        if not response["store"] and self._remember is None:
            return
        last, tenant = turn.last, tenant_key(exchange.tenant)
        record = Record(
            id=response["id"], previous=last.id if last else None, session=turn.session or response["id"],
            input=turn.input, response=msgspec.Raw(encode(response)),
        )  # fmt: skip
        if self._remember is not None:
            self._remember(turn.before, record)
        if not response["store"]:
            return
        try:
            await self._store.put(tenant, record)
        except NotKept as error:
            response["store"] = False
            log_failure(exchange.id, exchange.route, error)

    def running(self, exchange: Exchange, response: Mapping[str, Any]) -> Any:
        """While an answer is sent, it can be cancelled by its id."""
        return self._running.one(tenant_key(exchange.tenant), response["id"], exchange.ending.stop)


class Work:
    """One answer, whichever way it is sent."""

    def __init__(
        self, exchange: Exchange, model: erllama.Model, response: dict[str, Any], shape: Shape, create: Create,
        turn: Asked,
    ) -> None:  # fmt: skip
        self._exchange, self._model, self._response = exchange, model, response
        self._shape, self._create, self._turn = shape, create, turn

    async def whole(self, messages: Messages, options: Any) -> ASGIApp:
        """One response with all of it."""
        output = self._output()
        stream = self._model.stream_chat(messages, options=options)
        completion = await self._exchange.answer(collect(stream, output))
        response = EventWriter(self._response, output).finish(completion)
        await self._create.keep(self._exchange, self._turn, response)
        return json_response(response, headers={"x-request-id": self._exchange.id})

    async def streamed(self, messages: Messages, options: Any) -> ASGIApp:
        """Events, as the reply comes."""
        writer = EventWriter(self._response, self._output())

        async def keep(completion: erllama.Completion) -> None:
            await self._create.keep(self._exchange, self._turn, writer.finish(completion))

        stream = self._model.stream_chat(messages, options=options)
        response = await self._exchange.streamed(stream, writer, keep)

        async def app(*scope: Any) -> None:
            with self._create.running(self._exchange, self._response):
                await response(*scope)

        return app

    def _output(self) -> Output:
        return Output(self._response["id"].removeprefix("resp_"), self._shape)
