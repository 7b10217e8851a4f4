"""Spans as an application gets them: OpenTelemetry's SDK with an exporter in memory.

with traced() as spans:
    await model.chat(…)
spans.tree()  # what lies in what
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

Tree = dict[str, Any]


class Spans:
    """What was exported."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def all(self) -> list[ReadableSpan]:
        """The ended ones, as they began."""
        return sorted(self._exporter.get_finished_spans(), key=lambda one: one.start_time or 0)

    def named(self, name: str) -> list[ReadableSpan]:
        """Those of a name."""
        return [one for one in self.all() if one.name == name]

    def one(self, name: str) -> ReadableSpan:
        """The only one of a name."""
        (found,) = self.named(name)
        return found

    def below(self, span: ReadableSpan | None) -> list[ReadableSpan]:
        """The children of a span, in their order; of `None`, the roots among those that are here."""
        known = {one.context.span_id for one in self.all() if one.context is not None}
        mine = None if span is None or span.context is None else span.context.span_id
        return [one for one in self.all() if _parent(one, known) == mine]

    def tree(self, span: ReadableSpan | None = None) -> list[tuple[str, Any]]:
        """Names, each with what lies below it."""
        return [(one.name, self.tree(one)) for one in self.below(span)]

    def text(self) -> str:
        """All that is in them, to look for what must not be."""
        return "\n".join(one.to_json() for one in self.all())


def _parent(span: ReadableSpan, known: set[int]) -> int | None:
    return span.parent.span_id if span.parent is not None and span.parent.span_id in known else None


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    """Its attributes."""
    return span.attributes or {}


@contextmanager
def provider_of(provider: trace.TracerProvider | None) -> Iterator[None]:
    """With another provider for the process; OpenTelemetry itself lets it be set once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_TRACER_PROVIDER", provider)
        yield


@contextmanager
def traced(sampler: Sampler = ALWAYS_ON) -> Iterator[Spans]:
    """While an application has the SDK set up."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider_of(provider):
        yield Spans(exporter)
    provider.shutdown()
