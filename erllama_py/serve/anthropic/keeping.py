"""From `cache_control` to what the cache is asked to keep, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from erllama_py.serve.anthropic.conversation import Mark

MOST = 8  # as many as a request may name; Anthropic's clients send four at most


def keeps(marks: Sequence[Mark], *, has_tools: bool) -> list[dict[str, Any]]:
    """What is to be kept: up to the end of which message, by its index, or of the tools; the last ones, where there are
    too many. Of two marks at one place the longer one counts."""
    longest: dict[int, int] = {}
    for mark in marks:
        if mark.messages or has_tools:
            longest[mark.messages] = max(mark.seconds, longest.get(mark.messages, 0))
    places = sorted(longest)[-MOST:]
    return [{"seconds": float(longest[end]), "message": end - 1 if end else "tools"} for end in places]
