"""What a model's conversations look like beyond their turns: how it thinks, and how it calls tools. Pure.

Both are found from the source of a chat template and the model's vocabulary, once for each source.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from erllama_py.chat.thinking import Switch, ThinkingFormat, find_switch, find_thinking
from erllama_py.chat.tool_formats import ToolFormat, find_format, format_named

MOST_KEPT = 16  # sources whose dialects are kept: a request may bring a template of its own


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """The formats of one template; each is None where it has none."""

    thinking: ThinkingFormat | None = None
    switch: Switch | None = None
    """What turns thinking on and off."""
    tools: ToolFormat | None = None


class Dialects:
    """The dialects of one model. From any thread. `tool_format` names the format of its calls, where that is given."""

    def __init__(self, tool_format: str | None = None) -> None:
        self._tools = None if tool_format is None else format_named(tool_format)
        self._found: dict[str | None, Dialect] = {}

    def known(self, source: str | None) -> Dialect | None:
        """The dialect of a template that was asked for before."""
        return self._found.get(source)

    def of(self, source: str | None, is_token: Callable[[str], bool]) -> Dialect:
        """The dialect of a template, some milliseconds where it is not known; see `find_dialect`."""
        found = self._found.get(source)
        if found is None:
            if len(self._found) >= MOST_KEPT:
                self._found.clear()
            found = find_dialect(source, is_token)
            if self._tools is not None:
                found = msgspec.structs.replace(found, tools=self._tools)
            self._found[source] = found
        return found


def find_dialect(source: str | None, is_token: Callable[[str], bool] = lambda marker: False) -> Dialect:
    """Read a template's source; `is_token` says whether a marker is one token. A model without a template has its
    vocabulary."""
    text = source or ""
    return Dialect(thinking=find_thinking(text, is_token), switch=find_switch(text), tools=find_format(text))
