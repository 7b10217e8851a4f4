"""What llama-server's clients ask of tokens: how many a chat has, which a text has, and what a template makes of it."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp

from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.hints import with_hints, with_loose_tools, without_session, without_thinking
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.openai.chat import asked
from erllama_py.serve.openai.protocol import ChatRequest, DetokenizeRequest, TokenizeRequest

# What of a chat's options shapes its prompt.
SHAPING = ("tools", "template_kwargs", "continue_final_message", "tools_in_system", "thinking")


async def count(exchange: Exchange) -> ASGIApp:
    """`POST /v1/chat/completions/input_tokens`: how many tokens a chat's prompt has."""
    request = await exchange.body(ChatRequest)
    model = await exchange.model(request.model)
    messages, options = asked(exchange, request)

    async def explain(given: Any) -> int:
        return (await exchange.answer(model.explain(messages, options=given))).prompt_tokens

    tokens = await with_hints(explain, options, without_session, without_thinking, with_loose_tools)
    return json_response({"object": "response.input_tokens", "input_tokens": tokens})


async def tokenize(exchange: Exchange) -> ASGIApp:
    """`POST /tokenize`: the tokens of a text."""
    request = await exchange.body(TokenizeRequest)
    model = await exchange.model(request.model)
    if request.with_pieces:
        raise Problem("invalid", "with_pieces: tokens are given as ids alone", param="with_pieces")
    work = model.tokenize(request.content, special=request.parse_special, add_bos=request.add_special)
    return json_response({"tokens": await exchange.answer(work)})


async def detokenize(exchange: Exchange) -> ASGIApp:
    """`POST /detokenize`: the text of tokens."""
    request = await exchange.body(DetokenizeRequest)
    model = await exchange.model(request.model)
    return json_response({"content": await exchange.answer(model.detokenize(request.tokens))})


async def apply_template(exchange: Exchange) -> ASGIApp:
    """`POST /apply-template`: the prompt that a chat becomes, as text."""
    request = await exchange.body(ChatRequest)
    model = await exchange.model(request.model)
    messages, options = asked(exchange, request)
    shaping: Any = {name: value for name, value in options.items() if name in SHAPING}

    async def render(given: Any) -> str:
        tokens = await exchange.answer(model.apply_chat_template(messages, **given))
        return await exchange.answer(model.detokenize(tokens))

    return json_response({"prompt": await with_hints(render, shaping, without_thinking)})
