"""What a client asks for that it can do without: given up where a model refuses it, so that the request goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import erllama_py as erllama

T = TypeVar("T")
Options = Mapping[str, Any]
Relax = Callable[[Options, erllama.ErllamaError], Options | None]


async def with_hints(start: Callable[[Options], Awaitable[T]], options: Options, *relax: Relax) -> T:
    """What comes of `start(options)`. Where it is refused, the first of `relax` that gives other options decides with
    which to try again; where none does, it raises what was raised."""
    while True:
        try:
            return await start(options)
        except erllama.ErllamaError as error:
            changed = next((given for one in relax if (given := one(options, error)) is not None), None)
            if changed is None:
                raise
            options = changed


def without_session(options: Options, error: erllama.ErllamaError) -> Options | None:
    """For a `session_id` that is a hint: not where a turn of the session is under way."""
    return _without(options, "session_id") if isinstance(error, erllama.SessionBusy) else None


def without_thinking(options: Options, error: erllama.ErllamaError) -> Options | None:
    """For a `thinking` that is a hint: not where the model has no switch for it."""
    is_refused = isinstance(error, erllama.InvalidOption) and error.option == "thinking"
    return _without(options, "thinking") if is_refused else None


def with_loose_tools(options: Options, error: erllama.ErllamaError) -> Options | None:
    """For tools whose schemas no grammar can hold: any JSON object counts as their arguments, unless they are said to
    be strict."""
    tools = options.get("tools")
    if not isinstance(error, erllama.InvalidSchema) or not error.tool or not isinstance(tools, list):
        return None
    for place, tool in enumerate(tools):
        outer = tool.get("function")
        inner = outer if isinstance(outer, dict) else tool
        if inner.get("name") == error.tool and inner.get("strict") is None:
            loose = {**inner, "strict": False}
            changed = {**tool, "function": loose} if inner is outer else loose
            return {**options, "tools": [*tools[:place], changed, *tools[place + 1 :]]}
    return None


def without_idle_structure(options: dict[str, Any]) -> dict[str, Any]:
    """The options without the form of a text that is not written: where a call is asked for, the reply is that call.
    Agents ask for both, and mean the form for the turn without a call."""
    calls = options.get("tools") and options.get("tool_choice", "auto") not in ("auto", "none")
    return {name: value for name, value in options.items() if name != "json_schema"} if calls else options


def _without(options: Options, name: str) -> Options | None:
    """None where it is not among them."""
    return {one: value for one, value in options.items() if one != name} if name in options else None
