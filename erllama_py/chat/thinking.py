"""How a model marks what it thinks, found from its template."""

from __future__ import annotations

import msgspec


class ThinkingFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The markers of one model's thinking."""

    opens: str
    closes: str


def find_thinking(source: str) -> ThinkingFormat | None:
    """The format that a template speaks; None where it knows of no thinking."""
    return None
