"""`POST /api/chat`: a conversation answered, as a stream of lines or whole."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.hints import with_hints, with_loose_tools
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.ollama.lines import LineWriter, Reply, chat_shape
from erllama_py.serve.ollama.messages import conversation
from erllama_py.serve.ollama.protocol import ChatRequest, reply_options
from erllama_py.serve.ollama.staying import model_of, unloaded
from erllama_py.serve.ollama.thinking import thinking_options


async def chat(exchange: Exchange) -> ASGIApp:
    """Answer a conversation. Without messages: as soon as the model is there, or, to be kept for 0 seconds, goes."""
    request = await exchange.body(ChatRequest)
    exchange.check_count(request.messages or ())
    messages = conversation(request.messages or (), exchange.service.settings)
    given = reply_options(request)
    if not messages and (gone := unloaded(exchange, request)) is not None:
        return json_response(Reply(gone, chat_shape, exchange.began, lambda completion: {}).unloaded())
    model = await model_of(exchange, request)
    reply = Reply(request.model or model.id, chat_shape, exchange.began, lambda completion: {})
    if not messages:
        return await loaded(exchange, model, reply)
    options = exchange.options(given | await _of_conversation(exchange, model, request))

    async def start(options: Any) -> ASGIApp:
        if request.stream is not False:
            return await exchange.streamed(model.stream_chat(messages, options=options), LineWriter(reply))
        return json_response(reply.whole(await exchange.answer(model.chat(messages, options=options))))

    return await with_hints(start, options, with_loose_tools)


async def _of_conversation(exchange: Exchange, model: erllama.Model, request: ChatRequest) -> dict[str, Any]:
    if not request.tools and request.think is None:
        return {}
    form = await exchange.answer(model.chat_format())
    if request.tools and form.tool_format is None:
        raise Problem("invalid", "the model does not support tools: its chat template shows none", param="tools")
    # The template shows them; said as in the other APIs, so that a conversation that goes from one to another is known.
    told = {"tools": request.tools, "tools_in_system": True} if request.tools else {}
    return thinking_options(request.think, form) | told


async def loaded(exchange: Exchange, model: erllama.Model, reply: Reply) -> ASGIApp:
    """The answer once the model is there: it may be coming back after a crash."""
    await exchange.answer(model.tokenize(""))
    return json_response(reply.loaded())
