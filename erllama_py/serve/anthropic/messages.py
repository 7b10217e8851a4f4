"""`POST /v1/messages` and `POST /v1/messages/count_tokens`: a conversation answered, or counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import msgspec
from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.anthropic.answers import Asked, message
from erllama_py.serve.anthropic.conversation import Conversation, Reader
from erllama_py.serve.anthropic.keeping import keeps
from erllama_py.serve.anthropic.options import prompt_options, reply_options, shows_thinking
from erllama_py.serve.anthropic.protocol import MessagesRequest, Prompt
from erllama_py.serve.anthropic.streaming import EventWriter
from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.hints import with_hints, with_loose_tools, without_thinking
from erllama_py.serve.core.images import image_text
from erllama_py.serve.core.problems import Problem

T = TypeVar("T")
OF_PROMPTS = ("tools", "tools_in_system", "continue_final_message", "thinking")
OF_TENANTS = ("cache_salt", "priority", "deadline")


class Question(msgspec.Struct, frozen=True):
    """A conversation, the model that it is for, and what shapes its prompt."""

    model: erllama.Model
    conversation: Conversation
    options: dict[str, Any]


async def question(exchange: Exchange, request: Prompt) -> Question:
    """What a request asks of which model. Raises `Problem`, `ErllamaError`."""
    exchange.check_count(request.messages)
    model = await exchange.model(request.model)
    form = await model.chat_format()
    image = partial(image_text, exchange.service.settings)
    reader = Reader(image, lambda thinking, signature: model.verify_thinking(thinking, signature) is False)
    return Question(model, reader.read(request), prompt_options(request, form))


async def messages(exchange: Exchange) -> ASGIApp:
    """Answer a conversation."""
    request = await exchange.body(MessagesRequest)
    asks = await question(exchange, request)
    if request.max_tokens == 0:
        return await _prepared(exchange, request, asks)
    model, said = asks.model, asks.conversation.messages
    kept = keeps(asks.conversation.marks, has_tools=bool(request.tools))
    options = exchange.options(asks.options | reply_options(request) | {"keep": kept or None})
    asked = _asked(exchange, request, asks, options["response_tokens"])
    if request.stream:
        writer = EventWriter(asked, exchange.id)
        return await _heeded(lambda given: exchange.streamed(model.stream_chat(said, options=given), writer), options)
    completion = await _heeded(lambda given: exchange.answer(model.chat(said, options=given)), options)
    return _response(exchange, message(asked, completion))


async def count_tokens(exchange: Exchange) -> ASGIApp:
    """Count the tokens of the prompt that such a request would have, replies that are recognised as they were read."""
    asks = await question(exchange, await exchange.body(Prompt))
    options = exchange.options(asks.options)
    said = asks.conversation.messages
    explained = await _heeded(lambda given: exchange.answer(asks.model.explain(said, options=given)), options)
    return _response(exchange, {"input_tokens": explained.prompt_tokens})


async def _prepared(exchange: Exchange, request: MessagesRequest, asks: Question) -> ASGIApp:
    """Compute the prompt and save it: what Anthropic's clients mean by `max_tokens: 0`."""
    if request.stream:
        raise Problem("invalid", "0, which asks for no reply, is for requests without stream", param="max_tokens")
    model, options = asks.model, exchange.options(asks.options)

    async def prefill(given: Mapping[str, Any]) -> erllama.Completion:
        shaped = {name: given[name] for name in OF_PROMPTS if name in given}
        tokens = await model.apply_chat_template(asks.conversation.messages, **shaped)
        asked: Any = {name: given[name] for name in OF_TENANTS}
        if marks := asks.conversation.marks:
            asked["keep"] = [{"seconds": max(mark.seconds for mark in marks)}]
        return await model.prefill_only(tokens, options=asked)

    completion = await _heeded(lambda given: exchange.answer(prefill(given)), options)
    return _response(exchange, message(_asked(exchange, request, asks, 0), completion))


def _asked(exchange: Exchange, request: MessagesRequest, asks: Question, max_tokens: int) -> Asked:
    return Asked(
        message_id=f"msg_{exchange.id.removeprefix('req_')}", model=request.model or asks.model.id,
        max_tokens=max_tokens, shows_thinking=shows_thinking(request),
    )  # fmt: skip


async def _heeded(start: Callable[[Any], Awaitable[T]], options: Mapping[str, Any]) -> T:
    """What comes of it, without what the model cannot heed and its clients always send."""
    return await with_hints(start, options, without_thinking, with_loose_tools)


def _response(exchange: Exchange, body: Any) -> ASGIApp:
    return json_response(body, headers={"request-id": exchange.id})
