"""`POST /v1/chat/completions`: a conversation answered, whole or as a stream of chunks."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.exchange import Exchange, json_response
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.service import session_of
from erllama_py.serve.core.streams import SSE, sse
from erllama_py.serve.openai.protocol import API, ChatRequest, error_body, now, sampling
from erllama_py.serve.openai.usage import usage

_encode = msgspec.json.Encoder().encode


async def chat(exchange: Exchange) -> ASGIApp:
    """Answer a conversation."""
    request = await exchange.body(ChatRequest)
    exchange.check_count(request.messages)
    model = await exchange.model(request.model)
    options: Any = exchange.options(options_of(request))
    named = request.model or model.id
    if request.stream:
        writer = ChunkWriter(f"chatcmpl-{exchange.id[4:]}", named, request)
        return await exchange.streamed(model.stream_chat(request.messages, options=options), writer)
    completion = await exchange.answer(model.chat(request.messages, options=options))
    return json_response(whole(f"chatcmpl-{exchange.id[4:]}", named, completion), headers={"x-request-id": exchange.id})


def options_of(request: ChatRequest) -> dict[str, Any]:
    """A request's options by this library's names. Raises `Problem`."""
    logprobs = None if not request.logprobs else request.top_logprobs or 0
    return sampling(request) | {
        "response_tokens": request.max_completion_tokens or request.max_tokens, "logprobs": logprobs,
        "tools": request.tools or None, "tool_choice": request.tool_choice,
        "parallel_tool_calls": request.parallel_tool_calls, "template_kwargs": request.chat_template_kwargs,
        "json_schema": schema_of(request.response_format), "session_id": session_of(request.prompt_cache_key),
    }  # fmt: skip


def schema_of(given: dict[str, Any] | None) -> Any:
    """The schema that a `response_format` asks for; None for text. Raises `Problem`."""
    kind = None if given is None else given.get("type")
    if given is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    named = given.get("json_schema")
    if kind == "json_schema" and isinstance(named, dict) and isinstance(named.get("schema"), dict):
        return named["schema"]
    raise Problem("invalid", "expected text, json_object or json_schema with a schema", param="response_format")


REASONS = {"stop": "stop", "length": "length", "cancelled": "length"}


def reason(completion: erllama.Completion) -> str:
    """Why a reply ended, in OpenAI's words; what was cut short by time is so by length."""
    return "tool_calls" if completion.tool_calls else REASONS[completion.finish_reason]


def whole(completion_id: str, model: str, completion: erllama.Completion) -> dict[str, Any]:
    """A `chat.completion`."""
    return {
        "id": completion_id, "object": "chat.completion", "created": now(), "model": model,
        "choices": [
            {
                "index": index,
                "message": _message(one),
                "finish_reason": reason(one),
                "logprobs": _logprobs(one.logprobs),
            }
            for index, one in enumerate(completion.alternatives or (completion,))
        ],
        "usage": usage(completion),
    }  # fmt: skip


def _message(completion: erllama.Completion) -> dict[str, Any]:
    message = {"refusal": None, **completion.message}
    if completion.tool_calls and not completion.reply:
        message["content"] = None
    return message


def _logprobs(tokens: list[erllama.TokenLogprob] | None) -> dict[str, Any] | None:
    if tokens is None:
        return None
    return {"content": [{**_one(token), "top_logprobs": [_one(top) for top in token.top_logprobs]} for token in tokens]}


def _one(token: erllama.TopLogprob) -> dict[str, Any]:
    return {"token": token.token, "bytes": list(token.bytes), "logprob": token.logprob}


class ChunkWriter:
    """A stream of `chat.completion.chunk` events, ended by `[DONE]`."""

    media_type = SSE
    heartbeat = b": the prompt is being read\n\n"

    def __init__(self, completion_id: str, model: str, request: ChatRequest) -> None:
        head = {"id": completion_id, "object": "chat.completion.chunk", "created": now(), "model": model}
        self._head = _encode(head)[:-1]  # all chunks begin with it: encoded once
        self._n = request.n or 1
        self._usage = bool(request.stream_options and request.stream_options.include_usage)
        self._progress = bool(request.return_progress)
        self._calls = [0] * self._n  # how many each reply has

    def begin(self) -> bytes:
        """The role, before any text."""
        return b"".join(self._chunk(index, {"role": "assistant", "content": ""}) for index in range(self._n))

    def event(self, event: erllama.Event) -> bytes:
        """One delta."""
        match event:
            case erllama.TextDelta():
                return self._chunk(event.index, {"content": event.text}, _logprobs(event.logprobs))
            case erllama.ThinkingDelta():
                return self._chunk(event.index, {"reasoning_content": event.text})
            case erllama.ToolCallEnd():
                return self._chunk(event.index, {"tool_calls": [self._call(event)]})
            case erllama.Progress() if self._progress:
                progress = {"prompt_progress": {"total": event.total, "processed": event.done}, "choices": []}
                return self._sse(progress)
        return b""

    def done(self, completion: erllama.Completion) -> bytes:
        """The reasons, the usage where it was asked for, and the end."""
        replies = completion.alternatives or (completion,)
        ends = [self._chunk(index, {}, None, reason(one)) for index, one in enumerate(replies)]
        if self._usage:
            ends.append(self._sse({"choices": [], "usage": usage(completion)}))
        return b"".join([*ends, sse(b"[DONE]")])

    def failed(self, problem: Problem) -> bytes:
        """The error in place of a chunk."""
        return sse(_encode(error_body(API.problem(problem))))

    def _call(self, event: erllama.ToolCallEnd) -> dict[str, Any]:
        call = event.call
        number = self._calls[event.index]
        self._calls[event.index] += 1
        function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
        return {"index": number, "id": call.id, "type": "function", "function": function}

    def _chunk(
        self, index: int, delta: dict[str, Any], logprobs: Any = None, finish_reason: str | None = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._sse({"choices": [choice]})

    def _sse(self, fields: dict[str, Any]) -> bytes:
        return sse(self._head + b"," + _encode(fields)[1:])
