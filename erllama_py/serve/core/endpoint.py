"""An endpoint of an API as an ASGI application: lets requests in, has them answered, and logs what came of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from starlette.datastructures import Headers
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, reset_contextvars

import erllama_py as erllama
from erllama_py.serve.core.api import JSON, Api
from erllama_py.serve.core.exchange import Exchange, Gone
from erllama_py.serve.core.header_route import HeaderRoute
from erllama_py.serve.core.logs import log_request
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.readers import Connection, take_up
from erllama_py.serve.core.service import Service
from erllama_py.serve.core.taking_up import NAME

WORK = "erllama_py.work"  # in the scope of a request whose client has been answered: the task of one that may go on
FACTS = "erllama.facts"  # in the scope of a request that is over: its line in the log, for what is around endpoints

Handler = Callable[[Exchange], Awaitable[ASGIApp]]


class Endpoint:
    """One endpoint of an API, as an ASGI application. Where it is not `counted`, it answers while the server drains.

    `takes` is the type of its body, None where it has none; `gives` are the media types of what it answers, `answers`
    its types by status, as far as declared. `everybody` needs no key; what `lasts` are streams to be taken up again.
    """

    def __init__(
        self, service: Service, api: Api, route: str, handle: Handler, *, takes: Any = None,
        gives: Sequence[str] = (JSON,), answers: Mapping[int, Any] | None = None, counted: bool = True,
        everybody: bool = False, lasts: bool = False,
    ) -> None:  # fmt: skip
        self.api, self.route, self.handle = api, route, handle
        self.takes, self.gives, self.answers, self.everybody = takes, tuple(gives), dict(answers or {}), everybody
        self._service = service
        self._counted = counted
        self._lasts = lasts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever comes of it."""
        if self._lasts and NAME in Headers(scope=scope):
            connection = Connection(receive, send, self._service.settings)
            work = self._serve(scope, connection.receive, connection.send, connection)
            try:
                await connection.serve(work, self._service.lasting.tasks)
            finally:
                scope[WORK] = connection.task
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, connection: Connection | None = None) -> None:
        exchange = Exchange(self._service, self.api, self.route, scope, receive)
        bound = bind_contextvars(request_id=exchange.id)
        meters = self._service.meters
        meters.began(self.api.name, self.route)

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
            await send(message)

        try:
            try:
                await self._answer(exchange, scope, receive, tell, connection)
            finally:
                await exchange.close()
        finally:
            seconds = asyncio.get_running_loop().time() - exchange.began
            meters.ended(self.api.name, self.route, exchange.status, seconds)
            about = (self.api.name, exchange.id, self.route, exchange.status, seconds, exchange.facts)
            known = {"api": self.api.name, "request_id": exchange.id, "status": exchange.status}
            scope[FACTS] = {**exchange.facts, **known}
            log_request(*about, quiet=not self._counted)
            reset_contextvars(**bound)
            with suppress(ValueError):  # an API may have named the model in a task of its own, which is over
                reset_contextvars(**exchange.bound)

    async def _answer(
        self, exchange: Exchange, scope: Scope, receive: Receive, send: Send, connection: Connection | None
    ) -> None:
        began = exchange.status
        try:
            if not self.everybody:
                exchange.tenant = self._service.access.admit(exchange.request)
                exchange.facts |= {"tenant": name} if (name := exchange.tenant.name) else {}
            if not self._counted:
                await (await self.handle(exchange))(scope, receive, send)
                return
            spend = partial(self._service.access.spent, exchange.tenant)  # and no more: what it loads keeps hold of it
            with self._service.open.one(exchange.ending.hurry, exchange.tenant.name), erllama.metered(spend):
                reader = None if connection is None else await take_up(exchange, connection, self.api.name)
                await (reader or await self.handle(exchange))(scope, receive, send)
        except Gone:
            exchange.left()
        except Exception as error:
            problem = self.api.problem(error)
            if problem.status >= 500 and not (isinstance(error, Problem) and error.kind == "unavailable"):
                exchange.failure(error)
            if exchange.status == began:  # else it fails while it is sent
                with suppress(OSError):
                    await self.api.failure(error, exchange.id)(scope, receive, send)


def route(
    service: Service, api: Api, path: str, handle: Handler, *, method: str = "POST", takes: Any = None,
    gives: Sequence[str] = (JSON,), answers: Mapping[int, Any] | None = None, counted: bool = True,
    everybody: bool = False, lasts: bool = False, header: str | None = None,
) -> Route:  # fmt: skip
    """The route of an endpoint, see `Endpoint`. The description of the application says what it takes and gives.

    With `header` only of requests that have one of this name: so can two APIs share a path.
    """
    endpoint = Endpoint(
        service, api, path, handle, takes=takes, gives=gives, answers=answers, counted=counted, everybody=everybody,
        lasts=lasts,
    )  # fmt: skip
    if header is None:
        return Route(path, endpoint, methods=[method])
    return HeaderRoute(path, endpoint, methods=[method], header=header)
