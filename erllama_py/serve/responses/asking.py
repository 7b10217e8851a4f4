"""A model asked for an answer, and asked otherwise where it cannot take a request as it is.

A model without a switch for thinking thinks as it does; a session that is busy with another turn is done without; with
`truncation: auto` the oldest turns of a conversation that is too long are left out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import erllama_py as erllama
from erllama_py.serve.core.hints import with_hints, with_loose_tools, without_session, without_thinking
from erllama_py.serve.responses.output import Output

T = TypeVar("T")
Messages = Sequence[Mapping[str, Any]]
Attempt = Callable[[Messages, Any], Awaitable[T]]
HINTS = (without_session, without_thinking, with_loose_tools)
_SHAPING = ("tools", "template_kwargs", "tools_in_system")  # and `thinking`, whose switch adds a few tokens at most


async def asked(
    model: erllama.Model, attempt: Attempt[T], messages: Messages, options: Mapping[str, Any], *, shorten: bool = False
) -> T:
    """What comes of an attempt. Raises what it raises, where nothing helps."""
    try:
        return await with_hints(partial(attempt, messages), options, *HINTS)
    except erllama.ContextOverflow as error:
        if not shorten:
            raise
        shorter = await _shortened(model, messages, options, error.n_ctx)
        return await with_hints(partial(attempt, shorter), options, *HINTS)


async def collect(stream: erllama.Stream, output: Output) -> erllama.Completion:
    """Read a whole reply into the items of an answer."""
    async with stream as events:
        async for event in events:
            if isinstance(event, erllama.Done):
                return event.completion
            output.event(event)
    raise AssertionError("a stream ends with Done")


def cuts(messages: Messages) -> list[int]:
    """Where a conversation may be cut, in order: before what users say, after what opens it. Index 0 is not one."""
    return [number for number, one in enumerate(messages) if number and one["role"] == "user"]


def opening(messages: Messages) -> int:
    """How many messages open it: the system's, which stay."""
    return next((number for number, one in enumerate(messages) if one["role"] != "system"), len(messages))


async def prompt_tokens(model: erllama.Model, messages: Messages, options: Mapping[str, Any]) -> int:
    """Length of the prompt, as the chat template renders it."""
    shaping: Any = {name: options[name] for name in _SHAPING if options.get(name) is not None}
    return len(await model.apply_chat_template(messages, **shaping))


async def _shortened(model: erllama.Model, messages: Messages, options: Mapping[str, Any], n_ctx: int) -> Messages:
    """The conversation without its oldest turns, as few as will do, with room for a reply; at least the last stays."""
    most = n_ctx - min(options.get("response_tokens") or n_ctx, n_ctx // 4)
    head = opening(messages)
    places = [place for place in cuts(messages) if place > head]
    low, high = 0, len(places) - 1
    while low < high:
        middle = (low + high) // 2
        if await prompt_tokens(model, [*messages[:head], *messages[places[middle] :]], options) <= most:
            high = middle
        else:
            low = middle + 1
    return [*messages[:head], *messages[places[low] :]] if places else messages
