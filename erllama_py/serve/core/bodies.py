"""The body of a request as a checked struct: bounded in bytes, and what is wrong in it is named by its path."""

from __future__ import annotations

import asyncio
import re
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from erllama_py.serve.core.problems import Problem

T = TypeVar("T")
MOST_VALUES = 131_072  # texts, names, lists and objects in a body: 4,096 messages of several parts have half of them
BOM = b"\xef\xbb\xbf"  # which some programs put before UTF-8; RFC 8259 (8.1) lets readers pass over it
_AT = re.compile(r" - at `(?:key` in `)?\$\.?(?P<path>[^`]*)`$")


async def read_body(request: Request, most: int) -> bytes:
    """The whole body, at most `most` bytes. Raises `Problem`: `too_large`, or `invalid` where it is compressed or the
    client has left."""
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() not in ("", "identity"):
        message = f"bodies are read as they are, not in the content-encoding {coding[:40]!r}"
        raise Problem("invalid", message, code="unsupported_encoding", status=415)
    said = request.headers.get("content-length", "")
    if said.isdigit() and int(said) > most:
        raise _too_large(most)
    parts, size = list[bytes](), 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise _too_large(most)
            parts.append(part)
    except ClientDisconnect:
        raise Problem("invalid", "the body of the request was cut short") from None
    return b"".join(parts)


async def check_values(body: bytes) -> None:
    """Raises `Problem` for a body of more values than are made without holding up the event loop.

    Its bytes do not tell: eight megabytes of text are read in 10 ms, as many of empty lists in 600 ms. Numbers are not
    counted, as the longest lists of tokens are read in 20 ms.
    """
    if len(body) <= 2 * MOST_VALUES or _marks(body) <= MOST_VALUES:  # the marks within texts are counted too
        return
    await asyncio.sleep(0)
    plain = body.replace(b"\\\\", b"")
    await asyncio.sleep(0)
    plain = plain.replace(b'\\"', b"")
    await asyncio.sleep(0)
    texts = plain.count(b'"') // 2
    await asyncio.sleep(0)
    if texts > MOST_VALUES or texts + _marks(b"".join(plain.split(b'"')[::2])) > MOST_VALUES:
        message = f"the body of a request has at most {MOST_VALUES} texts, names, lists and objects"
        raise Problem("too_large", message, code="too_many_values")


def _marks(text: bytes) -> int:
    return text.count(b'"') + text.count(b"[") + text.count(b"{")


def too_slow(seconds: float) -> Problem:
    """What a client is told whose body does not come."""
    message = f"the body of a request has to be there after {seconds:g} s"
    return Problem("invalid", message, code="body_too_slow", status=408)


def _too_large(most: int) -> Problem:
    return Problem("too_large", f"the body of a request has at most {most} bytes", code="body_too_large")


def parse(body: bytes, kind: type[T]) -> T:
    """A body as a struct. Raises `Problem` with the path of what is wrong."""
    try:
        return msgspec.json.decode(body.removeprefix(BOM), type=kind)
    except msgspec.ValidationError as error:
        raise wrong(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem("invalid", f"the body is no JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise Problem("invalid", "the body is nested too deeply", code="invalid_json") from None


def wrong(error: msgspec.ValidationError) -> Problem:
    """msgspec's words for a value that does not fit, with the path by itself."""
    text = str(error)
    found = _AT.search(text)
    path = found["path"] if found else None
    message = text[: found.start()] if found else text
    return Problem("invalid", f"{path}: {message}" if path else message, param=path or None)
