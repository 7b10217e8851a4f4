"""The door of the option `tools`: what a caller gives, as a checked tuple of tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from erllama_py.chat.functions import is_function
from erllama_py.chat.tool import BadTool, Tool, tools_of
from erllama_py.errors import InvalidOption


def tool_list(given: object) -> tuple[Tool, ...]:
    """The tools: mappings in OpenAI's form or its inner one, and Python functions. `None` and an empty list are none.

    What it has returned it takes again as it is. Raises `InvalidOption`. The code of hinted types may run.
    """
    if given is None:
        return ()
    if isinstance(given, Mapping) or is_function(given):
        raise InvalidOption("tools", "a list of tools is expected, got a single one")
    if not isinstance(given, Sequence) or isinstance(given, str | bytes | bytearray):
        raise InvalidOption("tools", f"a list of mappings and functions is expected, got {type(given).__name__}")
    try:
        return tools_of(given)
    except BadTool as error:
        raise InvalidOption("tools", str(error)) from error


def shown(tools: Sequence[Tool]) -> list[dict[str, Any]] | None:
    """The mappings for the chat template; `None` without tools, since templates ask `tools is not none` too."""
    return [tool.shown for tool in tools] or None
