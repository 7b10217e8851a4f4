"""One HTTP request on its way through an API: who asks, what is open, what it came to.

An endpoint of an API is a coroutine function that takes an `Exchange` and returns a response. What it raises is
answered in the shape of its API; a client that leaves cancels what was done for it, within a decode.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import Token
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive, Scope
from structlog.contextvars import bind_contextvars

import erllama_py as erllama
from erllama_py.serve.core.admission import Admitted
from erllama_py.serve.core.api import Api, new_id
from erllama_py.serve.core.bodies import check_values, parse, read_body, too_slow
from erllama_py.serve.core.ending import Ending
from erllama_py.serve.core.hints import without_idle_structure
from erllama_py.serve.core.lasting import LastingStream
from erllama_py.serve.core.logs import log_failure
from erllama_py.serve.core.problems import Problem, problem_of, shutting_down
from erllama_py.serve.core.served import Lease
from erllama_py.serve.core.service import Service, Tenant
from erllama_py.serve.core.streams import Events, Keep, Streamed, Writer, until_gone
from erllama_py.watch.live import live_span

T = TypeVar("T")
UNASKED = 8192  # tokens of a reply where nobody says: the library's own bound, which a higher one does not lift
LEFT = 499  # nobody reads the status: its client has left


class Gone(Exception):
    """The client has left: there is nobody to answer."""


class Exchange:
    """One request. It observes its own stream."""

    def __init__(self, service: Service, api: Api, route: str, scope: Scope, receive: Receive) -> None:
        self.service, self.api, self.route = service, api, route
        self.request = Request(scope, receive)
        self.id = new_id()
        self.tenant = Tenant()
        self.facts: dict[str, Any] = {}
        """For the log: what it was about, without any text of it."""
        self.bound: Mapping[str, Token[Any]] = {}
        """What is in all log records of the request beside its id."""
        self.lasting: LastingStream | None = None  # what answers it, where that can be taken up again
        self.status = LEFT
        self.began = self._last = asyncio.get_running_loop().time()
        self._receive = receive
        self._pieces = 0
        self._model = ""
        self.ending = Ending()
        self._response: Streamed | None = None
        self._lease: Lease | None = None
        self._data: bytes | None = None

    async def body(self, kind: type[T]) -> T:
        """Its body as a struct. Raises `Problem`."""
        data = await self.data()
        await check_values(data)
        return parse(data, kind)

    async def data(self) -> bytes:
        """Its body. Raises `Problem`."""
        if self._data is None:
            async with self.receiving():
                self._data = await read_body(self.request, self.service.settings.max_body_bytes)
        return self._data

    @asynccontextmanager
    async def receiving(self) -> AsyncIterator[Callable[[], None]]:
        """While its body comes, within `body_seconds`. What it gives grants as many seconds again, for a body that is
        taken part by part. Raises `Problem`."""
        seconds, loop = self.service.settings.body_seconds, asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds) as limit:
                self.ending.by(lambda: limit.reschedule(loop.time()))
                yield lambda: limit.reschedule(loop.time() + seconds)
        except TimeoutError:
            if not limit.expired():
                raise
            raise (self.ending.why or too_slow(seconds)) from None
        finally:
            self.ending.by(None)

    async def model(self, name: str | None) -> erllama.Model:
        """The model that it names, loaded until the exchange is closed. Raises `Problem`, and what a load raises."""
        model_id = self.info(name).id
        if self._lease is None or self._lease.model_id != model_id:
            self._let_go()  # before it waits: two requests that hold what the other waits for would wait for ever
            self._lease = self.service.served.try_lease(model_id) or await self.answer(self._wait_for(model_id))
        return self.service.runtime.model(model_id)

    async def _wait_for(self, model_id: str) -> Lease:
        with live_span("erllama.load", lambda: {"gen_ai.request.model": model_id}):
            self._lease = await self.service.served.lease(model_id)  # else one who is cancelled now would lose it
            return self._lease

    def info(self, name: str | None) -> erllama.ModelInfo:
        """What is known of the model that it names, loaded or not. Raises `Problem`."""
        info = self.service.info(name, self.tenant)
        self._model = self.facts["model"] = info.id
        if not self.bound:
            self.bound = bind_contextvars(model=info.id)
        return info

    def take_lease(self) -> Lease | None:
        """Its hold on its model, for who goes on with it when the exchange is closed, and releases it."""
        lease, self._lease = self._lease, None
        return lease

    def models(self) -> dict[str, erllama.ModelInfo]:
        """What is served to its tenant, by each of its names: ids first, then aliases."""
        return self.service.models(self.tenant)

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a request to a model: what is `given` other than None, what the server says, whose it is."""
        settings = self.service.settings
        options = without_idle_structure({name: value for name, value in given.items() if value is not None})
        asked, most = options.get("response_tokens", settings.response_tokens), settings.max_response_tokens
        if asked is not None or most is not None:
            options["response_tokens"] = asked if most is None else min(asked or UNASKED, most)
        return options | self.of_tenant()

    def of_tenant(self) -> dict[str, Any]:
        """What of a call's options the server says alone: whatever computes what is cached has to be given them."""
        tenant, deadline = self.tenant, self.service.settings.deadline_seconds
        return {"cache_salt": tenant.salt, "priority": tenant.priority, "deadline": deadline}

    def check_operator(self) -> None:
        """Raises `Problem` where this is about all tenants together, and its own may not see that."""
        if not self.tenant.operator:
            raise Problem("forbidden", "this is for operators of the server", code="operators_only")

    def check_count(self, messages: Sequence[object], param: str = "messages") -> None:
        """Raises `Problem` where there are more messages than the server takes."""
        if len(messages) > (most := self.service.settings.max_messages):
            raise Problem("too_large", f"a conversation has at most {most} messages", param=param)

    async def answer(self, work: Coroutine[Any, Any, T]) -> T:
        """What comes of work that is done for the client alone; it is cancelled when the client leaves."""
        task, gone = asyncio.ensure_future(work), asyncio.ensure_future(until_gone(self._receive))
        self.ending.by(task.cancel)
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Gone
            if task.cancelled():
                raise self.ending.why or shutting_down()
            result = task.result()
        finally:
            gone.cancel()
            task.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)
        if isinstance(result, erllama.Completion):
            self._pieces += 1
            self.service.meters.first(self._model, result.stats.first_token_seconds)
            self.complete(result)
        return result

    async def streamed(self, stream: Events, writer: Writer, keep: Keep | None = None) -> Streamed:
        """The response that sends a stream, once the model has taken the request; `keep` is awaited at its end.

        Raises what the request raises.
        """
        settings, stream = self.service.settings, Admitted(stream)
        response = Streamed(
            stream, writer, self, heartbeat=settings.heartbeat_seconds, patience=settings.send_seconds,
            headers=((self.api.id_header, self.id.encode()),), keep=keep,
        )  # fmt: skip
        await self.answer(_entered(stream))
        self.ending.by(stream.cancel)
        self._response = response
        if self.lasting is not None:
            self.lasting.heartbeat = writer.heartbeat
        return response

    async def close(self) -> None:
        """End what was begun for it and never sent, and let go of its model."""
        try:
            if self._response is not None:
                await self._response.leave()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if (lease := self.take_lease()) is not None:
            lease.release()

    def piece(self) -> None:
        """See `Observer`."""
        now = asyncio.get_running_loop().time()
        if self._pieces:
            self.service.meters.gap(self._model, now - self._last)
        else:
            self.service.meters.first(self._model, now - self.began)
        self._pieces += 1
        self._last = now

    def complete(self, completion: erllama.Completion) -> None:
        """See `Observer`; the counts of all alternatives."""
        self.service.meters.replied(self.api.name, self._model, completion)
        self.service.recent.replied(self.api.name, self._model, completion, time.time())
        replies = completion.alternatives or (completion,)
        generated = sum(len(one.generated) for one in replies)
        self.facts |= {
            "prompt_tokens": completion.prompt_tokens, "generated_tokens": generated,
            "cached_tokens": completion.cache_delta.read, "finish_reason": completion.finish_reason,
        }  # fmt: skip
        if crashes := max(one.stats.crashes for one in replies):
            self.facts["crashes"] = crashes

    def failure(self, error: BaseException) -> None:
        """See `Observer`."""
        self.facts["error"] = type(error).__name__
        if problem_of(error).kind == "internal":  # a model that crashed is in the log, once for all its requests
            log_failure(self.id, self.route, error)

    def left(self) -> None:
        """See `Observer`."""
        self.status = LEFT


async def _entered(stream: Events) -> None:
    await stream.__aenter__()
