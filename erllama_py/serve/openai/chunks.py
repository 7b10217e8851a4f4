"""A chat's reply as OpenAI's clients read it: whole, and as a stream of chunks that put together are the same."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Any

import msgspec

import erllama_py as erllama
from erllama_py.serve.core.arguments import GrowingArguments
from erllama_py.serve.core.errors import error_body
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.streams import SSE, sse
from erllama_py.serve.openai.logprobs import chat_logprobs
from erllama_py.serve.openai.protocol import API, ChatRequest, now
from erllama_py.serve.openai.tools import function_of, is_legacy
from erllama_py.serve.openai.usage import usage

_encode = msgspec.json.Encoder().encode


def head(kind: str, reply_id: str, model: str, info: erllama.ModelInfo) -> dict[str, Any]:
    """What each object of one reply begins with. The fingerprint is that of the model's file."""
    return {
        "id": reply_id, "object": kind, "created": now(), "model": model,
        "system_fingerprint": f"fp_{info.fingerprint[:12]}",
    }  # fmt: skip


def reason(completion: erllama.Completion, legacy: bool = False) -> str:
    """Why a reply ended, in OpenAI's words; what was cut by time is so by length, also in the middle of a call."""
    if completion.finish_reason != "stop":
        return "length"
    if not completion.tool_calls:
        return "stop"
    return "function_call" if legacy else "tool_calls"


def whole(begun: Mapping[str, Any], completion: erllama.Completion, thought: int, legacy: bool) -> dict[str, Any]:
    """A `chat.completion`; `thought` of its tokens are thinking."""
    replies = completion.alternatives or (completion,)
    choices = [
        {
            "index": index, "message": _message(one, legacy), "finish_reason": reason(one, legacy),
            "logprobs": chat_logprobs(one.logprobs),
        }
        for index, one in enumerate(replies)
    ]  # fmt: skip
    return {**begun, "choices": choices, "usage": usage(completion, thought)}


def _message(completion: erllama.Completion, legacy: bool) -> dict[str, Any]:
    message = {**completion.message, "refusal": None, "annotations": []}
    if completion.tool_calls:
        message["content"] = completion.reply or None
    if completion.tool_calls and legacy:
        del message["tool_calls"]
        message["function_call"] = function_of(completion.tool_calls[0])
    return message


class _Call:
    """A call that is being written: which of its reply it is, and how far its arguments were told."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.arguments = GrowingArguments()
        self.named = False


class ChunkWriter:
    """A stream of `chat.completion.chunk` events, ended by `[DONE]`."""

    media_type = SSE
    heartbeat = b": the prompt is being read\n\n"

    def __init__(self, begun: Mapping[str, Any], request: ChatRequest) -> None:
        self._head = _encode(begun)[:-1]  # all chunks begin with it: encoded once
        self._n = request.n or 1
        self._usage = bool(request.stream_options and request.stream_options.include_usage)
        self._tail = b',"usage":null}' if self._usage else b"}"
        self._progress, self._began = bool(request.return_progress), monotonic()
        self._legacy = is_legacy(request)
        self._calls: list[dict[str, _Call]] = [{} for _ in range(self._n)]  # of each reply, by their ids
        self._thought = 0

    def begin(self) -> bytes:
        """The role, before any text."""
        return b"".join(self._chunk(index, {"role": "assistant", "content": ""}) for index in range(self._n))

    def event(self, event: erllama.Event) -> bytes:
        """One delta."""
        match event:
            case erllama.TextDelta():
                return self._chunk(event.index, {"content": event.text}, event.logprobs)
            case erllama.ThinkingDelta():
                self._thought += len(event.token_ids)
                return self._chunk(event.index, {"reasoning_content": event.text}, event.logprobs)
            case erllama.ToolCallDelta():
                return self._call_grows(event)
            case erllama.ToolCallEnd():
                return self._call_ends(event)
            case erllama.Progress() if self._progress:
                milliseconds = round(1000 * (monotonic() - self._began))
                progress = {"total": event.total, "processed": event.done, "time_ms": milliseconds}
                return self._sse({"choices": [], "prompt_progress": progress})
        return b""

    def done(self, completion: erllama.Completion) -> bytes:
        """The reasons, the usage where it was asked for, and the end."""
        replies = completion.alternatives or (completion,)
        ends = [self._chunk(index, {}, None, reason(one, self._legacy)) for index, one in enumerate(replies)]
        if self._usage:
            last = {"choices": [], "usage": usage(completion, self._thought)}
            ends.append(sse(self._head + b"," + _encode(last)[1:]))
        return b"".join([*ends, sse(b"[DONE]")])

    def failed(self, problem: Problem) -> bytes:
        """The error in place of a chunk."""
        return sse(_encode(error_body(API.problem(problem))))

    def _call_grows(self, event: erllama.ToolCallDelta) -> bytes:
        call = self._call(event.index, event.id)
        if not event.name and not call.named:  # clients take the name as it comes first
            return self._chunk(event.index, {}, event.logprobs) if event.logprobs else b""
        delta = self._call_delta(call, event.id, event.name, call.arguments.grow(event.arguments))
        return self._chunk(event.index, delta, event.logprobs) if delta or event.logprobs else b""

    def _call_ends(self, event: erllama.ToolCallEnd) -> bytes:
        call, given = self._call(event.index, event.call.id), event.call
        delta = self._call_delta(call, given.id, given.name, call.arguments.end(given.arguments))
        return self._chunk(event.index, delta) if delta else b""

    def _call(self, index: int, call_id: str) -> _Call:
        calls = self._calls[index]
        return calls.setdefault(call_id, _Call(len(calls)))

    def _call_delta(self, call: _Call, call_id: str, name: str, piece: str) -> dict[str, Any]:
        """The id and the name come with the first piece alone; nothing where there is nothing new."""
        first, call.named = not call.named, True
        if not first and not piece:
            return {}
        function = {"name": name, "arguments": piece} if first else {"arguments": piece}
        if self._legacy:
            return {"function_call": function}
        told: dict[str, Any] = {"index": call.number, "function": function}
        return {"tool_calls": [told | {"id": call_id, "type": "function"} if first else told]}

    def _chunk(
        self, index: int, delta: dict[str, Any], logprobs: Any = None, finish_reason: str | None = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": finish_reason, "logprobs": chat_logprobs(logprobs)}
        return self._sse({"choices": [choice]})

    def _sse(self, fields: dict[str, Any]) -> bytes:
        return sse(self._head + b"," + _encode(fields)[1:-1] + self._tail)
