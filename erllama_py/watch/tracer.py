"""The tracer of the library, where the application has set OpenTelemetry up: `None` costs a look into a dictionary.

Nothing of OpenTelemetry is imported here: an application that wants spans has imported it. Which provider it has is
asked again at each request, so it may be set at any time.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

NAME = "erllama_py"

_known: tuple[object, Tracer | None] = (None, None)  # the provider that was asked last, and its tracer


def tracer() -> Tracer | None:
    """Who makes spans; `None` without OpenTelemetry, and where its provider makes none."""
    global _known
    trace = sys.modules.get("opentelemetry.trace")
    find = getattr(trace, "get_tracer_provider", None)  # not there yet while another thread imports it
    if trace is None or find is None:
        return None
    provider = find()
    if provider is not _known[0]:
        _known = provider, _tracer_of(provider)
    return _known[1]


def _tracer_of(provider: object) -> Tracer | None:
    from opentelemetry import trace

    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    assert isinstance(provider, trace.TracerProvider)
    found = provider.get_tracer(NAME)
    return None if isinstance(found, trace.NoOpTracer) else found  # the SDK is switched off by its variable
