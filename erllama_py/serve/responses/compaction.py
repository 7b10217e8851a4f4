"""`POST /v1/responses/compact`: a conversation made shorter by a summary of the model's.

What users and developers said stays as it is; for all the rest stands one item, the summary, sealed by the server. A
conversation that is too long to be read at once is read in parts, each with the summary of those before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.responses.asking import Messages, asked, collect, cuts, opening, prompt_tokens
from erllama_py.serve.responses.create import model_of
from erllama_py.serve.responses.items import new_id
from erllama_py.serve.responses.messages import SUMMARY_REQUEST
from erllama_py.serve.responses.output import Output, Shape
from erllama_py.serve.responses.protocol import Turn
from erllama_py.serve.responses.resource import now, usage
from erllama_py.serve.responses.turns import Turns

MOST_SUMMARY = 1024  # tokens: a page
REQUEST = {"role": "user", "content": SUMMARY_REQUEST}


class Compact:
    """Compacts conversations."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    async def __call__(self, exchange: Exchange) -> ASGIApp:
        """Answer one request."""
        request = await exchange.body(Turn)
        if not request.model:
            await model_of(exchange, request)
        turn = await self._turns.read(exchange, request)
        model = await model_of(exchange, request)
        summary, took = await summarised(exchange, model, turn.messages, turn.session)
        seal = await self._turns.sealer(exchange, "compaction")
        said = [item for item in turn.items if item["type"] == "message" and item["role"] != "assistant"]
        rules = [item for item in said if item["role"] != "user"]
        kept = rules + [item for item in said if item["role"] == "user"]
        compaction = {"type": "compaction", "id": new_id("cmp"), "encrypted_content": seal(summary)}
        return json_response({
            "id": f"resp_{exchange.id[4:]}", "object": "response.compaction", "created_at": now(),
            "output": [*kept, compaction], "usage": took,
        })  # fmt: skip


async def summarised(
    exchange: Exchange, model: erllama.Model, messages: Messages, session: str | None
) -> tuple[str, dict[str, Any]]:
    """A summary of a conversation, and what it took in all. Raises `Problem` where a single turn is too long."""
    took: dict[str, Any] = {}
    room = (model.info.context_size or 0) // 4
    options = exchange.options({
        "response_tokens": min(MOST_SUMMARY, room) or None, "thinking": False, "session_id": session,
    })  # fmt: skip

    async def summary_of(part: Messages) -> str:
        output = Output("", Shape())

        async def attempt(asked_for: Messages, given: Any) -> erllama.Completion:
            return await exchange.answer(collect(model.stream_chat(asked_for, options=given), output))

        completion = await asked(model, attempt, [*part, REQUEST], options)
        _add(took, usage(completion, output.reasoning_tokens))
        return completion.reply.strip()

    rest, head = list(messages), opening(messages)
    while True:
        part = await _that_fits(model, rest, options, (model.info.context_size or 0) - room)
        summary = await summary_of(rest[:part])
        if part == len(rest):
            return summary, took
        rest = [*rest[:head], REQUEST, {"role": "assistant", "content": summary}, *rest[part:]]


async def _that_fits(model: erllama.Model, messages: Messages, options: Mapping[str, Any], most: int) -> int:
    """How many messages can be read at once, up to a place where a user speaks. Raises `Problem`."""
    # The first turn cannot be cut off from what opens the conversation, nor a summary from the turn after it.
    places = [place for place in cuts(messages) if place > opening(messages) + 2]
    places.append(len(messages))
    low, high = -1, len(places) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if await prompt_tokens(model, [*messages[: places[middle]], REQUEST], options) <= most:
            low = middle
        else:
            high = middle - 1
    if low < 0:
        message = "a single turn of the conversation is too long for the model's context"
        raise Problem("invalid", message, param="input", code="context_length_exceeded")
    return places[low]


def _add(total: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, dict):
            _add(total.setdefault(name, {}), value)
        else:
            total[name] = total.get(name, 0) + value
