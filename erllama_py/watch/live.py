"""Spans of work while it is done: the current one of their task, so that what is done inside lies below them.

Where there is no tracer, there is no span, and what is told of it is not asked for.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from erllama_py.watch.spans import CANCELLED, Attributes
from erllama_py.watch.tracer import tracer

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class Live:
    """A span while its work is done; one that is not there takes everything."""

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def tell(self, attributes: Callable[[], Attributes]) -> None:
        """What is known of it now; not asked for where nobody records it."""
        if self._span is not None and self._span.is_recording():
            self._span.set_attributes(attributes())

    def fail(self, kind: str) -> None:
        """It failed, and nothing is raised. `kind` is a word of few."""
        if self._span is not None:
            _mark(self._span, kind)


@contextmanager
def live_span(name: str, attributes: Callable[[], Attributes]) -> Iterator[Live]:
    """While it is open, what else makes spans in this task makes them below it."""
    found = tracer()
    if found is None:
        yield Live(None)
        return
    with found.start_as_current_span(
        name, attributes=attributes(), record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield Live(span)
        except BaseException as error:
            failed(span, error)
            raise


def failed(span: Span, error: BaseException) -> None:
    """What a span says of an error: its class, and no word of its text, which may quote a prompt."""
    if isinstance(error, CancelledError):
        span.set_attributes(CANCELLED)
    else:
        _mark(span, type(error).__name__)


def _mark(span: Span, kind: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)
