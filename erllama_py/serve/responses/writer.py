"""An answer as a stream of server-sent events, each with its name and number, ended by `[DONE]`."""

from __future__ import annotations

from typing import Any

import msgspec

import erllama_py as erllama
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.streams import SSE, sse
from erllama_py.serve.responses.output import Output
from erllama_py.serve.responses.protocol import API
from erllama_py.serve.responses.resource import ended, failed

_encode = msgspec.json.Encoder().encode


class EventWriter:
    """See `Writer`. `response` is the answer in progress."""

    media_type = SSE
    heartbeat = b": the prompt is being read\n\n"

    def __init__(self, response: dict[str, Any], output: Output) -> None:
        self._response, self._output = response, output
        self._number = 0
        self._last: tuple[list[dict[str, Any]], dict[str, Any]] | None = None

    def begin(self) -> bytes:
        """The answer, before it has anything."""
        response = {"response": self._response}
        return self._all({"type": "response.created"} | response, {"type": "response.in_progress"} | response)

    def event(self, event: erllama.Event) -> bytes:
        """What it comes to."""
        events = self._output.event(event)
        return self._all(*events) if events else b""

    def finish(self, completion: erllama.Completion) -> dict[str, Any]:
        """The whole answer, before it is sent. Allowed twice."""
        if self._last is None:
            events = self._output.end(completion)
            self._last = (events, ended(self._response, self._output, completion))
        return self._last[1]

    def done(self, completion: erllama.Completion) -> bytes:
        """The last items, and the answer as it is stored."""
        self.finish(completion)
        assert self._last is not None
        events, response = self._last
        last = {"type": f"response.{response['status']}", "response": response}
        return self._all(*events, last) + sse(b"[DONE]")

    def completed(self, response: dict[str, Any]) -> bytes:
        """The end of an answer without items."""
        return self._all({"type": "response.completed", "response": response}) + sse(b"[DONE]")

    def failed(self, problem: Problem) -> bytes:
        """The answer with its error."""
        response = failed(self._response, self._output, API.problem(problem))
        return self._all({"type": "response.failed", "response": response}) + sse(b"[DONE]")

    def _all(self, *events: dict[str, Any]) -> bytes:
        written = list[bytes]()
        for event in events:
            numbered = {"type": event["type"], "sequence_number": self._number, **event}
            self._number += 1
            written.append(sse(_encode(numbered), event["type"]))
        return b"".join(written)
