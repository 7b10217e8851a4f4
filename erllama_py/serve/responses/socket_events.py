"""What clients send over a WebSocket, and what they are sent: an event a message, as JSON.

An event of a stream is the same over HTTP and here, without what makes it a server-sent event. An error has its fields
twice: in `error`, as clients of the protocol read them, and by themselves, as an error in a stream has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from erllama_py.serve.core.problems import Problem

CREATE, CANCEL = "response.create", "response.cancel"


class Create(NamedTuple):
    """A response is asked for."""

    body: bytes
    """Of the request, as it would be over HTTP."""
    generate: bool
    """False: only the prompt is computed, for the turns to come."""
    previous: str | None
    """The answer that it goes on from, if it may be one."""


class Cancel(NamedTuple):
    """The response that is being sent is to end with what it has."""

    response_id: str | None


class _Event(msgspec.Struct):
    type: Any = None
    generate: Any = None
    stream_id: Any = None
    background: Any = None
    response_id: Any = None
    previous_response_id: Any = None


_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_event = msgspec.json.Decoder(_Event).decode
_encode = msgspec.json.Encoder().encode
_OURS = ("type", "generate", "stream_id", "event_id", "background", "stream")


def read_event(text: str) -> Create | Cancel:
    """What a client has sent. Raises `Problem`."""
    try:
        event, fields = _event(text), _fields(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Problem("invalid", f"a message is a JSON object: {error}", code="invalid_json") from None
    match event.type:
        case "response.create":
            return _create(event, fields)
        case "response.cancel":
            return Cancel(event.response_id if isinstance(event.response_id, str) else None)
        case None:
            raise Problem("invalid", "type: an event has a type", param="type", code="missing_required_parameter")
        case other:
            message = f"type: {str(other)[:80]!r} is no event that is taken here: {CREATE}, {CANCEL}"
            raise Problem("invalid", message, param="type", code="unknown_event_type")


def _create(event: _Event, fields: dict[str, msgspec.Raw]) -> Create:
    if event.stream_id is not None:
        message = "stream_id: one connection has one stream here: open another connection"
        raise Problem("invalid", message, param="stream_id", code="unsupported_parameter")
    if event.background:
        raise Problem("invalid", "background: not over a WebSocket", param="background", code="unsupported_parameter")
    if event.generate not in (None, True, False):
        raise Problem("invalid", "generate: expected a bool", param="generate")
    body = {name: value for name, value in fields.items() if name not in _OURS}
    body["stream"] = msgspec.Raw(b"true")
    previous = event.previous_response_id
    return Create(_encode(body), event.generate is not False, previous if isinstance(previous, str) else None)


def frames(data: bytes) -> Iterator[str]:
    """The events of a part of a stream, as messages; without comments and the `[DONE]`."""
    for block in data.split(b"\n\n"):
        for line in block.split(b"\n"):
            if line.startswith(b"data: ") and line != b"data: [DONE]":
                yield line[6:].decode()


def error_event(error: dict[str, Any], status: int) -> str:
    """A turn, or a message, that is wrong; `error` is that of the API's body."""
    told = {name: error.get(name) for name in ("code", "message", "param")}
    event = {"type": "error", "status": status, "error": error, **told, "sequence_number": 0}
    return _encode(event).decode()
