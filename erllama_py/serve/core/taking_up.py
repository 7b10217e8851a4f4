"""What a request that names a stream comes to: it begins the stream, or takes it up, or is wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.replay import Place

NAME, AFTER = "x-conversation-id", "last-event-id"
MOST_NAME = 256


class Known(NamedTuple):
    """A stream that is there."""

    digest: bytes
    over: bool
    """Its request is over."""
    place: Place
    """What it has for this reader."""


class _Peek(msgspec.Struct):
    stream: msgspec.Raw = msgspec.Raw()  # not made into values: it may be of any size


_peek = msgspec.json.Decoder(_Peek).decode


def name_of(headers: Mapping[str, str]) -> str | None:
    """The id that a client has given to the stream; None where it names none. Raises `Problem`."""
    name = headers.get(NAME)
    if name is None:
        return None
    if not (1 <= len(name) <= MOST_NAME and name.isascii() and name.isprintable()):
        message = f"{NAME}: 1 to {MOST_NAME} printable characters of ASCII are expected"
        raise Problem("invalid", message, param=NAME, code="invalid_conversation_id")
    return name


def after_of(text: str | None, param: str = AFTER) -> int | None:
    """The number of the last event that a client has; None where it says none. Raises `Problem`."""
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise Problem("invalid", f"{param}: the number of an event is expected", param=param, code="invalid_event_id")
    return int(text)


def streams(body: bytes) -> bool:
    """Whether a request asks for a stream. What is wrong in it is not said here."""
    try:
        return bytes(_peek(body.removeprefix(b"\xef\xbb\xbf")).stream) == b"true"
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def digest_of(path: str, body: bytes) -> bytes:
    """Tells requests apart."""
    return hashlib.sha256(path.encode() + b"\0" + body).digest()


def begins(known: Known | None, digest: bytes | None, after: int | None, param: str = AFTER) -> bool:
    """Whether a request begins a new stream under its id, else it takes up the one that is there. Raises `Problem`.

    `digest` is of the request, None of one without a body, which begins nothing. `after` is the last event that its
    client has, as `param` says it: None where it says none, and 0 where it has had none of them yet.
    """
    if known is None:
        if digest is None or after:
            raise unknown()
        return True
    if digest is not None and digest != known.digest:
        if known.over and after is None:
            return True
        message = "another request has this id: stop its stream first, or take another id"
        raise Problem("conflict", message, param=NAME, code="conversation_busy")
    if known.over and after is None and digest is not None:
        return True  # its client asks the same once more
    if known.place == "ahead":
        message = f"{param}: the stream has not come so far"
        raise Problem("invalid", message, param=param, code="event_id_ahead")
    if known.place == "evicted":
        message = f"{param}: what follows this event is not kept any more"
        raise Problem("not_found", message, param=param, code="events_evicted")
    return False


def unknown() -> Problem:
    """There is no such stream, or not any more; another tenant's looks the same."""
    return Problem("not_found", "there is no stream with this id, or not any more", code="stream_not_found")


def no_stream() -> Problem:
    """A request without `stream` cannot be taken up."""
    message = f"{AFTER}: only a stream can be taken up again, and this request asks for none"
    return Problem("invalid", message, param=AFTER, code="not_a_stream")
