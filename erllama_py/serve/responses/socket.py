"""`/v1/responses` over a WebSocket: a connection on which turns are asked for one after the other.

    Sockets      lets connections in: by their key, as many as there may be
    Session      one connection: reads what its client sends, and answers turn after turn
    TurnOverHttp one turn, as the endpoint of HTTP answers it: with the same key, budget, bounds, metrics and log

Turns that come while one is answered wait, a few of them. When no request is let in any more, a connection is closed
after the turn that is being answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketDisconnected, WebSocketState

from erllama_py.serve.core.api import new_id
from erllama_py.serve.core.bodies import check_values
from erllama_py.serve.core.endpoint import Endpoint, Handler
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.logs import log_refusal
from erllama_py.serve.core.places import Places
from erllama_py.serve.core.problems import RETRY_SECONDS, Problem, shutting_down
from erllama_py.serve.core.service import Service, Tenant
from erllama_py.serve.responses.connection_store import ConnectionStore
from erllama_py.serve.responses.create import Create
from erllama_py.serve.responses.protocol import API, ResponseRequest
from erllama_py.serve.responses.running import Running
from erllama_py.serve.responses.socket_events import Cancel, error_event, frames, read_event
from erllama_py.serve.responses.socket_events import Create as Asked
from erllama_py.serve.responses.store import Store
from erllama_py.serve.responses.turns import Turns
from erllama_py.serve.responses.warming import Warm

MOST_WAITING = 16  # turns of a connection beside the one that is answered: OpenAI's bound of what may be in flight
LIFE_SECONDS = 3600.0  # of a connection, as the protocol has it
GOING_AWAY, NORMAL, TRY_AGAIN, POLICY = 1012, 1000, 1013, 1008  # codes of RFC 6455 and of its registry


class ClientLeft(OSError):
    """What a turn is told that is sent to a client who has left: it is no failure of the turn."""


class Sockets:
    """The connections of one application: an ASGI application. Owns them."""

    def __init__(self, service: Service, store: Store, running: Running, *, life: float = LIFE_SECONDS) -> None:
        self._service, self._store, self._running, self._life = service, store, running, life
        self.route = "/v1/responses"  # for its span
        self._places = Places(service.settings.max_websockets, "WebSockets", "too_many_websockets")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection. A client that may not have one gets the answer that it would get over HTTP."""
        socket = WebSocket(scope, receive, send)
        await socket.receive()  # it connects
        try:
            tenant = self._admit(socket)
        except Problem as problem:
            request_id = new_id()
            log_refusal(API.name, request_id, problem.status, problem.code)
            await socket.send_denial_response(API.failure(problem, request_id))
            return
        with self._places.taken(tenant.name):
            await socket.accept()
            store = ConnectionStore(self._store, self._service.settings.max_body_bytes)
            await Session(self._service, socket, store, self._running, self._life).serve()

    def _admit(self, socket: WebSocket) -> Tenant:
        tenant = self._service.access.admit(socket)
        if self._service.open.draining:
            raise shutting_down()
        self._places.most = self._service.settings.max_websockets  # it may have been configured anew
        self._places.check(tenant.name)
        return tenant


class Session:
    """See the module."""

    def __init__(
        self, service: Service, socket: WebSocket, store: ConnectionStore, running: Running, life: float
    ) -> None:
        turns = Turns(store)
        create = Create(store, turns, running, remember=store.remember)
        self._service, self._socket, self._store = service, socket, store
        self._create, self._warm = self._endpoint(create), self._endpoint(Warm(turns, create))
        self._id = new_id().removeprefix("req_")
        self._asked: asyncio.Queue[Asked] = asyncio.Queue(MOST_WAITING)
        self._waiting_bytes = 0
        self._turn: TurnOverHttp | None = None
        self._exchange: Exchange | None = None
        self._over_at = asyncio.get_running_loop().time() + life
        self._ending = asyncio.Event()
        self._sending = asyncio.Lock()

    async def serve(self) -> None:
        """Until either side closes it."""
        drained = self._ending.set
        self._service.open.drained.add(drained)
        reading, answering = asyncio.create_task(self._read()), asyncio.create_task(self._answer())
        try:
            await asyncio.wait({reading, answering}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and self._turn is not None:
                self._turn.leave()  # what is computed for it ends, and is counted
                await asyncio.gather(answering, return_exceptions=True)
        finally:
            self._service.open.drained.discard(drained)
            for task in (reading, answering):
                task.cancel()
            await asyncio.gather(reading, answering, return_exceptions=True)

    # --- what its client sends -------------------------------------------------------------------------------------

    async def _read(self) -> None:
        with suppress(WebSocketDisconnect, OSError):
            while True:
                message = await self._socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                try:
                    await self._take(message.get("text"))
                except Problem as problem:
                    await self._refuse(problem)
                await asyncio.sleep(0)  # thousands may have come at once, and none of the above has to wait

    async def _take(self, text: str | None) -> None:
        if text is None:
            raise Problem("invalid", "a message is text: binary ones are not taken", code="binary_message")
        data = text.encode(errors="replace")
        await check_values(data)
        match read_event(data):
            case Cancel(response_id):
                self._cancel(response_id)
            case asked:
                self._enqueue(asked)

    def _enqueue(self, asked: Asked) -> None:
        size, most = len(asked.body), self._service.settings.max_body_bytes
        if self._asked.full() or (self._waiting_bytes and self._waiting_bytes + size > most):
            message = f"at most {MOST_WAITING} turns of a connection wait, with {most} bytes together"
            raise Problem("overloaded", message, code="too_many_turns", retry_after=RETRY_SECONDS)
        self._waiting_bytes += size
        self._asked.put_nowait(asked)

    def _cancel(self, response_id: str | None) -> None:
        now = None if self._exchange is None else self._exchange.facts.get("response")
        if self._exchange is None or response_id not in (None, now):
            raise Problem("not_found", "no such response is being sent on this connection", code="response_not_found")
        self._exchange.ending.stop()

    # --- what it is sent -------------------------------------------------------------------------------------------

    async def _answer(self) -> None:
        with suppress(WebSocketDisconnect, OSError):
            while (asked := await self._next()) is not None:
                turn = self._turn = TurnOverHttp(asked.body, self._send)
                scope = {**self._socket.scope, "type": "http", "method": "POST", "scheme": "http", "extensions": {}}
                await (self._create if asked.generate else self._warm)(scope, turn.receive, turn.send)
                self._turn = self._exchange = None
                if turn.failed:
                    self._store.forget(asked.previous)
                if turn.status == 401:  # its key was taken away meanwhile
                    return await self._close(POLICY, "the API key is not known any more")
                if not turn.whole:  # its client does not read
                    return await self._close(TRY_AGAIN, "what was sent was not read in time")

    async def _next(self) -> Asked | None:
        """The next turn; None where the connection has been closed, for its age, for being idle, or with the server."""
        loop, settings = asyncio.get_running_loop(), self._service.settings
        asking, ending = asyncio.ensure_future(self._asked.get()), asyncio.ensure_future(self._ending.wait())
        try:
            idle = min(settings.websocket_idle_seconds, max(self._over_at - loop.time(), 0.0))
            await asyncio.wait({asking, ending}, timeout=idle, return_when=asyncio.FIRST_COMPLETED)
            if self._ending.is_set():
                await self._close(GOING_AWAY, "the server is shutting down")
            elif loop.time() >= self._over_at:
                message = "this connection is as old as it may become: open another one"
                await self._refuse(Problem("invalid", message, code="websocket_connection_limit_reached"))
                await self._close(NORMAL, "too old")
            elif asking.done():
                self._waiting_bytes -= len(asking.result().body)
                return asking.result()
            else:
                await self._close(NORMAL, "idle")
            return None
        finally:
            asking.cancel()
            ending.cancel()

    async def _refuse(self, problem: Problem) -> None:
        told = API.problem(problem)
        await self._send(error_event(API.error(told, "")["error"], told.status))

    async def _send(self, text: str) -> None:
        async with self._sending:
            try:
                await self._socket.send_text(text)
            except (WebSocketDisconnect, WebSocketDisconnected) as error:
                raise ClientLeft from error

    async def _close(self, code: int, reason: str) -> None:
        if self._socket.application_state is WebSocketState.CONNECTED:
            async with asyncio.timeout(self._service.settings.send_seconds):
                await self._socket.close(code, reason)

    def _endpoint(self, handle: Handler) -> Endpoint:
        async def turn(exchange: Exchange) -> ASGIApp:
            self._exchange = exchange
            exchange.facts["websocket"] = self._id
            return await handle(exchange)

        return Endpoint(self._service, API, "/v1/responses", turn, takes=ResponseRequest)


class TurnOverHttp:
    """The other side of an endpoint: gives it the body of a request, and sends what it answers as messages."""

    def __init__(self, body: bytes, send: Callable[[str], Any]) -> None:
        self._send, self._body = send, body
        self._left = asyncio.Event()
        self._begun = False
        self.status = 0
        """Of its answer, once that has begun."""
        self._answer = list[bytes]()
        self.failed = False
        """It had begun, and ended with an error."""
        self.whole = False
        """All of it was sent."""

    def leave(self) -> None:
        """Its client has left."""
        self._left.set()

    async def receive(self) -> Message:
        """The body, and then that the client has left, once it has."""
        if not self._begun:
            self._begun = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """A part of the answer."""
        if self._left.is_set():
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        data, more = message.get("body", b""), message.get("more_body", False)
        if self.status == 200:
            for text in frames(data):
                self.failed |= text.startswith('{"type":"response.failed"')
                await self._send(text)
        else:
            self._answer.append(data)
            if not more:
                error = msgspec.json.decode(b"".join(self._answer))["error"]
                await self._send(error_event(error, self.status))
        self.whole = not more
