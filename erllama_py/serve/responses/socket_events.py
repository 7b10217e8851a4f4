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


NULL = msgspec.Raw(b"null")


class _Event(msgspec.Struct):
    """Its fields as they were written, since they may be of any size: they are made into values one by one."""

    type: msgspec.Raw = NULL
    generate: msgspec.Raw = NULL
    stream_id: msgspec.Raw = NULL
    background: msgspec.Raw = NULL
    response_id: msgspec.Raw = NULL
    previous_response_id: msgspec.Raw = NULL


_event = msgspec.json.Decoder(_Event).decode
_encode = msgspec.json.Encoder().encode
_MOST_WORD = 4096  # bytes of an id, or of the type


def read_event(message: bytes) -> Create | Cancel:
    """What a client has sent. Raises `Problem`."""
    try:
        event = _event(message)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Problem("invalid", f"a message is a JSON object: {error}", code="invalid_json") from None
    match _word(event.type):
        case "response.create":
            return _create(event, message)
        case "response.cancel":
            return Cancel(_word(event.response_id))
        case None if bytes(event.type) == b"null":
            raise Problem("invalid", "type: an event has a type", param="type", code="missing_required_parameter")
        case _:
            shown = bytes(event.type)[:80].decode(errors="replace")
            text = f"type: {shown} is no event that is taken here: {CREATE}, {CANCEL}"
            raise Problem("invalid", text, param="type", code="unknown_event_type")


def _create(event: _Event, message: bytes) -> Create:
    if bytes(event.stream_id) != b"null":
        text = "stream_id: one connection has one stream here: open another connection"
        raise Problem("invalid", text, param="stream_id", code="unsupported_parameter")
    if bytes(event.background) not in (b"null", b"false"):
        raise Problem("invalid", "background: not over a WebSocket", param="background", code="unsupported_parameter")
    if bytes(event.generate) not in (b"null", b"true", b"false"):
        raise Problem("invalid", "generate: expected a bool", param="generate")
    # Of two fields with one name the last one counts, and those that are the event's own are no request's.
    body = message.rstrip(b" \t\r\n").removesuffix(b"}") + b',"stream":true}'
    return Create(body, bytes(event.generate) != b"false", _word(event.previous_response_id))


def _word(written: msgspec.Raw) -> str | None:
    """A short text; None for all else."""
    text = bytes(written)
    return msgspec.json.decode(text, type=str) if text[:1] == b'"' and len(text) <= _MOST_WORD else None


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
