"""The options of `run_tools` beside those of its requests, checked once, at the door."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from erllama_py.options.check import Count, Options
from erllama_py.options.names import given_at


@given_at("it is an option of `run_tools`")
class ToolRunOptions(Options, frozen=True):
    """What `run_tools` takes beside the options of its requests."""

    max_rounds: Annotated[int, Meta(ge=1, le=10_000)] = 8
    """Most replies that the model is asked for; the calls of the last one are left open."""
    tool_timeout: Annotated[float, Meta(gt=0.0, le=1e9)] | None = None
    """Seconds that one call may take; after that it is cancelled, and the model is told. `None`: any time."""
    parallel_calls: Annotated[int, Meta(ge=1, le=1024)] = 8
    """Most calls of one reply that are carried out at a time; the rest wait."""
    max_result_characters: Count = 20_000
    """A longer result is cut, and the model is told of it."""
