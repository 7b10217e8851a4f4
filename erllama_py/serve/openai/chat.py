"""`POST /v1/chat/completions`: a conversation answered, whole or as a stream of chunks."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.hints import Options, with_hints, with_loose_tools, without_session, without_thinking
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.service import session_of
from erllama_py.serve.openai.chunks import ChunkWriter, head, whole
from erllama_py.serve.openai.conversation import conversation, goes_on
from erllama_py.serve.openai.protocol import ChatRequest, needed
from erllama_py.serve.openai.reading import Reading
from erllama_py.serve.openai.sampling import most_tokens, sampling
from erllama_py.serve.openai.tools import is_legacy, tool_options

UNTHINKING = ("none", "minimal")  # efforts for which thinking is turned off, where there is a switch


async def chat(exchange: Exchange) -> ASGIApp:
    """Answer a conversation."""
    request = await exchange.body(ChatRequest)
    model = await exchange.model(needed(request.model))
    messages, options = asked(exchange, request)
    reply_id, named = f"chatcmpl-{exchange.id[4:]}", request.model or model.id
    relax = [without_session, without_thinking, with_loose_tools]
    if request.continue_final_message is None:
        relax.append(_without_continuing)
    if request.stream:
        writer = ChunkWriter(head("chat.completion.chunk", reply_id, named, model.info), request)

        async def stream(given: Options) -> ASGIApp:
            events = model.stream_chat(messages, options=_typed(given))
            return await exchange.streamed(events, writer)

        return await with_hints(stream, options, *relax)
    reading = Reading()

    async def answer(given: Options) -> erllama.Completion:
        return await exchange.answer(reading.of(model.stream_chat(messages, options=_typed(given))))

    completion = await with_hints(answer, options, *relax)
    begun = head("chat.completion", reply_id, named, model.info)
    body = whole(begun, completion, reading.thought, is_legacy(request))
    return json_response(body, headers={"x-request-id": exchange.id})


def _typed(options: Options) -> Any:
    return options


def asked(exchange: Exchange, request: ChatRequest) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The messages and the options of a chat as the library takes them. Raises `Problem`."""
    exchange.check_count(request.messages)
    messages = conversation(request.messages, exchange.service.settings)
    options = exchange.options(options_of(request))
    if goes_on(messages, request.continue_final_message) and request.add_generation_prompt is not True:
        options["continue_final_message"] = True
    return messages, options


def options_of(request: ChatRequest) -> dict[str, Any]:
    """A request's options by this library's names. Raises `Problem`."""
    if request.top_logprobs and not request.logprobs:
        raise Problem("invalid", "top_logprobs: logprobs is to be true for it", param="top_logprobs")
    options = sampling(request) | tool_options(request) | _thinking(request)
    options["logprobs"] = (request.top_logprobs or 0) if request.logprobs else None
    if request.max_completion_tokens is not None:
        options["response_tokens"] = most_tokens(request.max_completion_tokens, "max_completion_tokens")
    if (schema := schema_of(request.response_format)) is not None:
        options["json_schema"] = schema
    if (request.n or 1) == 1:  # a session goes on from one reply
        options["session_id"] = session_of(request.prompt_cache_key)
    return options


def _thinking(request: ChatRequest) -> dict[str, Any]:
    effort, values = request.reasoning_effort, request.chat_template_kwargs
    if effort is None:
        return {"template_kwargs": values}
    if effort != "none":  # for templates that know levels; the others do not read it
        values = {"reasoning_effort": effort, **(values or {})}
    return {"template_kwargs": values, "thinking": effort not in UNTHINKING}


def schema_of(given: dict[str, Any] | None) -> dict[str, Any] | None:
    """The schema that a `response_format` asks for; None for text. Raises `Problem`."""
    kind = None if given is None else given.get("type")
    if given is None or kind == "text":
        return None
    named = given.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else given.get("schema")  # llama-server's
    if kind == "json_object" or (kind == "json_schema" and isinstance(named, dict) and schema is None):
        return schema if isinstance(schema, dict) else {"type": "object"}
    if kind == "json_schema" and isinstance(schema, dict):
        return schema
    message = "response_format: expected the type text, json_object, or json_schema with a schema"
    raise Problem("invalid", message, param="response_format")


def _without_continuing(options: Options, error: erllama.ErllamaError) -> Options | None:
    """Where a template cannot go on from the assistant's last message, and nobody has said that it should."""
    if not isinstance(error, erllama.ChatTemplateError) or "continue_final_message" not in options:
        return None
    return {name: value for name, value in options.items() if name != "continue_final_message"}
