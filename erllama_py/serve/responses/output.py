"""The items of an answer, made of the events of the model's reply, and the events by which a client sees them grow.

One item is open at a time: what is thought, what is said, or a call. Every method gives the events to send, each a
mapping with its `type`; numbers in sequence are the writer's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

import erllama_py as erllama
from erllama_py.serve.core.arguments import GrowingArguments

Json = dict[str, Any]


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """How a request wants its answer."""

    summary: bool = False
    """Thinking is told as a summary: see the guide for what that is here."""
    sealed: Callable[[str], str] | None = None
    """Seals the thinking for clients that keep it; `None`: they do not."""


class Output:
    """The items so far. `answer` is in the id of each: 32 hex digits."""

    def __init__(self, answer: str, shape: Shape) -> None:
        self.items: list[Json] = []
        self.reasoning_tokens = 0
        """Tokens of what was thought, with the markers around it."""
        self._answer, self._shape = answer, shape
        self._open: str | None = None  # the kind of the last item, while it grows
        self._texts: list[str] = []  # of that item
        self._logprobs: list[Json] = []
        self._blank = ""  # white space that no visible text has followed yet
        self._blank_logprobs: list[Json] = []
        self._call = ""  # the model's id of the call that is open
        self._arguments = GrowingArguments()
        self._called: set[str] = set()

    def event(self, event: erllama.Event) -> list[Json]:
        """What comes of an event of the model's."""
        match event:
            case erllama.ThinkingDelta():
                self.reasoning_tokens += len(event.token_ids)
                return self._think(event.text)
            case erllama.ThinkingEnd():
                return self._close() if self._open == "reasoning" else []
            case erllama.TextDelta():
                return self._say(event.text, [logprob_of(one) for one in event.logprobs or ()])
            case erllama.ToolCallDelta() if event.name:
                return [*self._start_call(event.id, event.name), *self._argue(self._arguments.grow(event.arguments))]
            case erllama.ToolCallEnd():
                return self._end_call(event.call)
        return []

    def end(self, completion: erllama.Completion) -> list[Json]:
        """The reply is complete, or was cut: what is open is closed. An answer has at least one item."""
        events = [one for call in completion.tool_calls if call.id not in self._called for one in self._end_call(call)]
        if not self.items:
            events += self._start_message()
        return events + self._close("completed" if completion.finish_reason == "stop" else "incomplete")

    # --- what is thought -------------------------------------------------------------------------------------------

    def _think(self, text: str) -> list[Json]:
        events = list[Json]()
        if self._open != "reasoning":
            item = {"type": "reasoning", "id": "rs", "summary": [], "content": []}
            events = self._start("reasoning", item)
            kind = "response.reasoning_summary_part.added" if self._shape.summary else "response.content_part.added"
            events.append(self._of_part(kind, part=self._thought("")))
        if text:
            self._texts.append(text)
            kind = "response.reasoning_summary_text.delta" if self._shape.summary else "response.reasoning.delta"
            events.append(self._of_part(kind, delta=text))
        return events

    def _thought(self, text: str) -> Json:
        return {"type": "summary_text" if self._shape.summary else "reasoning_text", "text": text}

    def _end_thinking(self, text: str, status: str) -> list[Json]:
        item, part = self.items[-1], self._thought(text)
        item["summary" if self._shape.summary else "content"].append(part)
        if self._shape.sealed is not None:
            item["encrypted_content"] = self._shape.sealed(text)
        what, of = ("reasoning_summary_text", "reasoning_summary_part")
        if not self._shape.summary:
            what, of = "reasoning", "content_part"
        return [
            self._of_part(f"response.{what}.done", text=text), self._of_part(f"response.{of}.done", part=part),
        ]  # fmt: skip

    # --- what is said ----------------------------------------------------------------------------------------------

    def _say(self, text: str, logprobs: list[Json]) -> list[Json]:
        events = list[Json]()
        if self._open != "message":
            # White space before calls, or around thinking, is no message.
            self._blank += text
            self._blank_logprobs += logprobs
            if not self._blank.strip():
                return []
            text, logprobs = self._blank, self._blank_logprobs
            events = self._start_message()
        self._texts.append(text)
        self._logprobs += logprobs
        if text:
            events.append(self._of_part("response.output_text.delta", delta=text, logprobs=logprobs))
        return events

    def _start_message(self) -> list[Json]:
        item = {
            "type": "message", "id": "msg", "status": "in_progress", "role": "assistant", "content": [],
        }  # fmt: skip
        events = self._start("message", item)
        return [*events, self._of_part("response.content_part.added", part=_said("", []))]

    def _end_message(self, text: str, status: str) -> list[Json]:
        item, part = self.items[-1], _said(text, self._logprobs)
        item["content"].append(part)
        item["status"] = status
        return [
            self._of_part("response.output_text.done", text=text, logprobs=part["logprobs"]),
            self._of_part("response.content_part.done", part=part),
        ]

    # --- calls -----------------------------------------------------------------------------------------------------

    def _start_call(self, call_id: str, name: str) -> list[Json]:
        if self._open == "call" and self._call == call_id:
            return []
        item = {
            "type": "function_call", "id": "fc", "call_id": call_id, "name": name, "arguments": "",
            "status": "in_progress",
        }  # fmt: skip
        self._called.add(call_id)
        events = self._start("call", item)
        self._call, self._arguments = call_id, GrowingArguments()
        return events

    def _argue(self, piece: str) -> list[Json]:
        if not piece:
            return []
        self._texts.append(piece)
        return [self._of_item("response.function_call_arguments.delta", delta=piece)]

    def _end_call(self, call: erllama.ToolCall) -> list[Json]:
        events = self._start_call(call.id, call.name)
        events += self._argue(self._arguments.end(call.arguments))
        return events + self._close("incomplete" if call.problem else "completed")

    def _end_arguments(self, text: str, status: str) -> list[Json]:
        self.items[-1] |= {"arguments": text, "status": status}
        return [self._of_item("response.function_call_arguments.done", arguments=text)]

    # --- items -----------------------------------------------------------------------------------------------------

    def _start(self, kind: str, item: Json) -> list[Json]:
        """Open an item, whose `id` is the beginning of its own."""
        events = self._close()
        item["id"] = f"{item['id']}_{self._answer}_{len(self.items)}"
        self.items.append(item)
        self._open, self._texts, self._logprobs = kind, [], []
        self._blank, self._blank_logprobs = "", []
        return [*events, self._of_list("response.output_item.added")]

    def _close(self, status: str = "completed") -> list[Json]:
        if self._open is None:
            return []
        ends = {"reasoning": self._end_thinking, "message": self._end_message, "call": self._end_arguments}
        events = ends[self._open]("".join(self._texts), status)
        self._open = None
        return [*events, self._of_list("response.output_item.done")]

    def _of_list(self, kind: str) -> Json:
        item = self.items[-1]
        copied = {name: list(value) if isinstance(value, list) else value for name, value in item.items()}
        return {"type": kind, "output_index": len(self.items) - 1, "item": copied}

    def _of_item(self, kind: str, **fields: Any) -> Json:
        return {"type": kind, "item_id": self.items[-1]["id"], "output_index": len(self.items) - 1, **fields}

    def _of_part(self, kind: str, **fields: Any) -> Json:
        index = "summary_index" if kind.startswith("response.reasoning_summary") else "content_index"
        return self._of_item(kind, **{index: 0}, **fields)


def _said(text: str, logprobs: list[Json]) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def logprob_of(token: erllama.TokenLogprob) -> Json:
    """How likely a token was, and those that were the likeliest there."""
    return {**_one(token), "top_logprobs": [_one(top) for top in token.top_logprobs]}


def _one(token: erllama.TopLogprob) -> Json:
    return {"token": token.token, "bytes": list(bytes.fromhex(token.bytes)), "logprob": token.logprob}
