"""Replies as Ollama's clients read them: an object a line, the last of which has the counts; or one object for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

import erllama_py as erllama
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.streams import NDJSON
from erllama_py.serve.ollama.protocol import API, error_body

_encode = msgspec.json.Encoder().encode
REASONS = {
    "stop": "stop",
    "length": "length",
    "cancelled": "length",
    "deadline": "length",
}  # what time has cut short is so by length


class Shape(Protocol):
    """Where a piece of a reply stands in its line."""

    def __call__(self, text: str, thinking: str = "", calls: Sequence[erllama.ToolCall] = ()) -> dict[str, Any]: ...


def chat_shape(text: str, thinking: str = "", calls: Sequence[erllama.ToolCall] = ()) -> dict[str, Any]:
    """In `/api/chat`: a message."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = [_call(index, call) for index, call in enumerate(calls)]
    return {"message": message}


def generate_shape(text: str, thinking: str = "", calls: Sequence[erllama.ToolCall] = ()) -> dict[str, Any]:
    """In `/api/generate`: fields of the line."""
    return {"response": text, "thinking": thinking} if thinking else {"response": text}


def _call(index: int, call: erllama.ToolCall) -> dict[str, Any]:
    return {"id": call.id, "function": {"index": index, "name": call.name, "arguments": call.arguments}}


def logprobs_of(tokens: Sequence[erllama.TokenLogprob] | None) -> dict[str, Any]:
    """The field for how likely the tokens of a line were; none where nothing is known."""
    if tokens is None:
        return {}
    return {
        "logprobs": [{**_one(token), "top_logprobs": [_one(top) for top in token.top_logprobs]} for token in tokens]
    }


def _one(token: erllama.TopLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(bytes.fromhex(token.bytes))}


def timestamp(seconds: float | None = None) -> str:
    """A unix time as Ollama writes it; now, where none is given."""
    at = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def nanoseconds(seconds: float) -> int:
    """Seconds as Ollama counts them."""
    return round(seconds * 1e9)


def counts(completion: erllama.Completion, total_seconds: float) -> dict[str, Any]:
    """What a reply took, times in nanoseconds. `prompt_eval_count` is the whole prompt, what was cached included."""
    stats = completion.stats
    reading = stats.lookup_seconds + stats.restore_seconds + stats.prefill_seconds
    return {
        "total_duration": nanoseconds(total_seconds),
        "load_duration": nanoseconds(stats.queued_seconds),
        "prompt_eval_count": completion.prompt_tokens,
        "prompt_eval_cached_count": completion.cache_delta.read,
        "prompt_eval_duration": nanoseconds(reading),
        "eval_count": len(completion.generated),
        "eval_duration": nanoseconds(stats.decode_seconds),
    }


class Reply:
    """The lines of one reply: the model's name as the client said it, and when it asked, by the loop's clock.

    `further` gives what the last line has beside the counts.
    """

    def __init__(
        self, model: str, shape: Shape, began: float, further: Callable[[erllama.Completion], dict[str, Any]]
    ) -> None:
        self._model, self._shape, self._began, self._further = model, shape, began, further

    def whole(self, completion: erllama.Completion) -> dict[str, Any]:
        """All of it at once."""
        said = self._shape(completion.reply, completion.thinking or "", completion.tool_calls)
        return self._head() | said | logprobs_of(completion.logprobs) | self._end(completion)

    def last(self, completion: erllama.Completion) -> dict[str, Any]:
        """What follows its pieces."""
        return self._head() | self._shape("") | self._end(completion)

    def piece(self, tokens: Sequence[erllama.TokenLogprob] | None = None, **said: Any) -> dict[str, Any]:
        """A part of it."""
        return self._head() | self._shape(**said) | {"done": False} | logprobs_of(tokens)

    def loaded(self) -> dict[str, Any]:
        """The answer to a request that says nothing: the model is there."""
        return self._head() | self._shape("") | {"done": True, "done_reason": "load"}

    def unloaded(self) -> dict[str, Any]:
        """The answer to one that says nothing and does not keep the model: it goes."""
        return self._head() | self._shape("") | {"done": True, "done_reason": "unload"}

    def _head(self) -> dict[str, Any]:
        return {"model": self._model, "created_at": timestamp()}

    def _end(self, completion: erllama.Completion) -> dict[str, Any]:
        seconds = asyncio.get_running_loop().time() - self._began
        reason = {"done": True, "done_reason": REASONS[completion.finish_reason]}
        return reason | self._further(completion) | counts(completion, seconds)


class LineWriter:
    """A stream of lines. See `Writer`; there is nothing in this format that could say that a stream lives."""

    media_type = NDJSON
    heartbeat = b""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def begin(self) -> bytes:
        """Nothing."""
        return b""

    def event(self, event: erllama.Event) -> bytes:
        """A line for what can be shown."""
        match event:
            case erllama.TextDelta():
                return line(self._reply.piece(event.logprobs, text=event.text))
            case erllama.ThinkingDelta():
                return line(self._reply.piece(event.logprobs, text="", thinking=event.text))
            case erllama.ToolCallEnd():
                return line(self._reply.piece(text="", calls=[event.call]))
        return b""

    def done(self, completion: erllama.Completion) -> bytes:
        """The counts."""
        return line(self._reply.last(completion))

    def failed(self, problem: Problem) -> bytes:
        """The error in place of a line."""
        return line(error_body(API.problem(problem)))


def line(value: dict[str, Any]) -> bytes:
    """One line of NDJSON."""
    return _encode(value) + b"\n"
