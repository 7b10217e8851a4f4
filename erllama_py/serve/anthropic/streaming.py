"""A reply as Anthropic's named events.

    message_start  (content_block_start  content_block_delta …  content_block_stop) …  message_delta  message_stop

`message_start` waits for the first news of the prompt, with which it is known how many tokens that has. A `ping` shows
that the stream lives, also before it.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

import erllama_py as erllama
from erllama_py.serve.anthropic.answers import Asked, call_block, end, head, text_block
from erllama_py.serve.anthropic.protocol import API, error_body
from erllama_py.serve.anthropic.usage import first_usage, usage
from erllama_py.serve.core.arguments import GrowingArguments
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.streams import SSE, sse

Kind = Literal["text", "thinking", "call"]

_encode = msgspec.json.Encoder().encode


def named(event: dict[str, Any]) -> bytes:
    """A server-sent event of the name that it has as its `type`."""
    return sse(_encode(event), event["type"])


class EventWriter:
    """One stream of events; a `Writer`."""

    media_type = SSE
    heartbeat = named({"type": "ping"})

    def __init__(self, asked: Asked, request_id: str) -> None:
        self._asked, self._request_id = asked, request_id
        self._begun = False
        self._index = -1  # of the last block
        self._open: Kind | None = None  # what that one holds, if it is not over
        self._blank = ""  # white space that may be no part of any text
        self._call = ""  # the id of the call that is being written
        self._arguments = GrowingArguments()

    def begin(self) -> bytes:
        """See the top."""
        return b""

    def event(self, event: erllama.Event) -> bytes:
        """The events for one of the library's."""
        match event:
            case erllama.Progress():
                return self._start(event.total)
            case erllama.TextDelta():
                return self._text(event.text)
            case erllama.ThinkingDelta():
                return self._thinking(event.text)
            case erllama.ThinkingEnd():
                return self._thought(event.signature)
            case erllama.ToolCallDelta() if event.name:
                return self._called(event.id, event.name) + self._argue(self._arguments.grow(event.arguments))
            case erllama.ToolCallEnd() if event.call.name:
                call = event.call
                begun = self._called(call.id, call.name)
                return begun + self._argue(self._arguments.end(call.arguments)) + self._close()
        return b""

    def done(self, completion: erllama.Completion) -> bytes:
        """The end, with the counts of the engine."""
        took = usage(completion)
        delta = {"type": "message_delta", "delta": end(self._asked, completion), "usage": took}
        return b"".join(
            [self._start(completion.prompt_tokens), self._close(), named(delta), named({"type": "message_stop"})]
        )

    def failed(self, problem: Problem) -> bytes:
        """An error in place of what is missing."""
        return named(error_body(API.problem(problem), self._request_id))

    # --- the message ---------------------------------------------------------------------------------------------

    def _start(self, prompt_tokens: int) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        empty: dict[str, Any] = {
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": first_usage(prompt_tokens),
        }
        message = head(self._asked) | empty | {"usage": first_usage(prompt_tokens)}
        return named({"type": "message_start", "message": message})

    # --- its blocks ----------------------------------------------------------------------------------------------

    def _begin(self, kind: Kind, block: dict[str, Any]) -> bytes:
        """The block that is written on, which is a new one unless one of this kind is open."""
        if self._open == kind:
            return b""
        before = self._start(0) + self._close()
        self._open = kind
        self._index += 1
        return before + named({"type": "content_block_start", "index": self._index, "content_block": block})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return named({"type": "content_block_delta", "index": self._index, "delta": delta})

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return named({"type": "content_block_stop", "index": self._index})

    def _text(self, text: str) -> bytes:
        if self._open != "text" and not text.strip():
            self._blank += text
            return b""
        text, self._blank = self._blank + text, ""
        begun = self._begin("text", text_block(""))
        return begun + (self._delta({"type": "text_delta", "text": text}) if text else b"")

    def _thinking(self, text: str) -> bytes:
        if not text:
            return b""
        begun = self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        if not self._asked.shows_thinking:
            return begun
        return begun + self._delta({"type": "thinking_delta", "thinking": text})

    def _thought(self, signature: str) -> bytes:
        if self._open != "thinking":
            return b""
        return self._delta({"type": "signature_delta", "signature": signature}) + self._close()

    def _called(self, call_id: str, name: str) -> bytes:
        if self._open == "call" and self._call == call_id:
            return b""
        closed = self._close()
        self._call, self._arguments, self._blank = call_id, GrowingArguments(), ""
        return closed + self._begin("call", call_block(call_id, name, {}))

    def _argue(self, piece: str) -> bytes:
        return self._delta({"type": "input_json_delta", "partial_json": piece}) if piece else b""
