"""What a model's conversations look like beyond their turns: how it thinks, and how it calls tools. Pure.

Both are found from the source of a chat template, once for each source.
"""

from __future__ import annotations

import msgspec

from erllama_py.chat.thinking import ThinkingFormat, find_thinking

MOST_KEPT = 16  # sources whose dialects are kept: a request may bring a template of its own


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """The formats of one template; each is None where it has none."""

    thinking: ThinkingFormat | None = None


class Dialects:
    """The dialects of one model. From any thread."""

    def __init__(self) -> None:
        self._found: dict[str | None, Dialect] = {}

    def of(self, source: str | None) -> Dialect:
        """The dialect of a template; that of a model without a template has nothing."""
        found = self._found.get(source)
        if found is None:
            if len(self._found) >= MOST_KEPT:
                self._found.clear()
            found = self._found[source] = find_dialect(source)
        return found


def find_dialect(source: str | None) -> Dialect:
    """Read a template's source."""
    return Dialect() if source is None else Dialect(thinking=find_thinking(source))
