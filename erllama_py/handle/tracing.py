"""Spans of calls, where the application has a tracer; what they say is `watch/spans`'.

    begin ─▶ the span starts ─▶ the actor works, and knows nothing of it ─▶ the reply settles ─▶ phases, the end

They are made on the caller's side, where its context is: no message carries any of it, and nothing is done at a token.
The phases are spans too, made at the end out of the times that the engine has measured. A call that is made of others,
such as a run with its replies and tools, is a `live_span`: the current one while it lasts.
"""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from erllama_py.actors import ActorEnded, Raised, Reply, Returned
from erllama_py.handle.replies import Prepare
from erllama_py.results import Completion
from erllama_py.watch.live import Live, failed, live_span
from erllama_py.watch.spans import (
    FIRST_TOKEN,
    Operation,
    of_completion,
    of_operation,
    of_options,
    of_tool,
    phases,
)
from erllama_py.watch.tracer import tracer

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from erllama_py.handle.replies import Prepared
    from erllama_py.options.request import RequestOptions

Translate = Callable[[], AbstractContextManager[None]]
"""What turns the actor's own errors into those that callers know."""


class RequestSpan:
    """The span of one request. It ends once: when its reply is there, or fails, or nobody waits for it any more."""

    def __init__(
        self, tracer: Tracer, operation: Operation, model_id: str, translate: Translate, called: float, *, streams: bool
    ) -> None:
        self._tracer, self._model_id, self._translate, self._streams = tracer, model_id, translate, streams
        self._called, self._called_ns = called, time.time_ns()
        self._prepared: float | None = None
        self._over = False
        self._span = tracer.start_span(
            f"{operation} {model_id}", attributes=of_operation(operation, model_id), start_time=self._called_ns
        )

    def preparing(self, prepare: Prepare) -> Prepare:
        """`prepare`, of which the span learns what was asked for and how long it took."""

        async def watched(options: RequestOptions) -> Prepared:
            if self._span.is_recording():
                self._span.set_attributes(of_options(options, streams=self._streams))
            prepared = await prepare(options)
            self._prepared = self._elapsed()
            return prepared

        return watched

    @contextmanager
    def beginning(self) -> Iterator[None]:
        """Until there is a reply to wait for: what is raised here is what the request came to."""
        try:
            yield
        except BaseException as error:
            self._fail(error)
            raise

    def follow(self, reply: Reply[Completion]) -> None:
        """End with the reply."""
        reply.on_abandoned(lambda: self._fail(CancelledError()))
        reply.on_settled(lambda: self._settle(reply))

    def _settle(self, reply: Reply[Completion]) -> None:
        match reply.outcome:
            case Returned(value):
                self._complete(value)
            case Raised(ActorEnded() as ended):
                try:
                    with self._translate():
                        raise ended
                except BaseException as known:
                    self._fail(known)
            case Raised(error):
                self._fail(error)

    def _complete(self, completion: Completion) -> None:
        ended = self._elapsed()
        if self._span.is_recording() and not self._over:
            self._span.set_attributes(of_completion(completion, self._model_id, streams=self._streams))
            if completion.generated:
                self._span.add_event(FIRST_TOKEN, timestamp=self._ns(completion.stats.first_token_seconds))
            self._add_phases(completion, ended)
        self._end(ended)

    def _add_phases(self, completion: Completion, ended: float) -> None:
        from opentelemetry.trace import set_span_in_context

        inside = set_span_in_context(self._span)
        for name, start, end, attributes in phases(completion, self._prepared, ended):
            phase = self._tracer.start_span(name, inside, attributes=attributes, start_time=self._ns(start))
            phase.end(self._ns(end))

    def _fail(self, error: BaseException) -> None:
        if not self._over:
            failed(self._span, error)
            self._span.set_attributes({"gen_ai.response.finish_reasons": ["error"]})
        self._end(self._elapsed())

    def _end(self, ended: float) -> None:
        if not self._over:
            self._over = True
            self._span.end(self._ns(ended))

    def _elapsed(self) -> float:
        return time.monotonic() - self._called

    def _ns(self, seconds: float) -> int:
        """Seconds from the call on as the time of a span: the clock may be set meanwhile, and no phase jumps."""
        return self._called_ns + int(seconds * 1e9)


def request_span(
    operation: Operation, model_id: str, translate: Translate, called: float, *, streams: bool
) -> RequestSpan | None:
    """The span of a request that is made now, below the caller's current one; `None` where there are no spans.

    `called` is now, as `time.monotonic` tells it: the engine's times count from there, and so do those of the phases.
    """
    found = tracer()
    return None if found is None else RequestSpan(found, operation, model_id, translate, called, streams=streams)


@contextmanager
def operation_span(operation: Operation, model_id: str) -> Iterator[Live]:
    """`live_span` of an operation of a model."""
    with live_span(f"{operation} {model_id}", lambda: of_operation(operation, model_id)) as span:
        yield span


@contextmanager
def tool_span(name: str | None) -> Iterator[Live]:
    """`live_span` of a call of a tool; `None` for one that is not there: its name is what the model wrote."""
    with live_span(f"execute_tool {name}" if name else "execute_tool", lambda: of_tool(name)) as span:
        yield span
