"""The body of a request as a checked struct: bounded in bytes, and what is wrong in it is named by its path."""

from __future__ import annotations

import asyncio
import re
from typing import Any, NamedTuple, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from erllama_py.serve.core.choices import choices
from erllama_py.serve.core.problems import Problem

T = TypeVar("T")
BOM = b"\xef\xbb\xbf"  # which some programs put before UTF-8; RFC 8259 (8.1) lets readers pass over it
_AT = re.compile(r" - at `(?:key` in `)?\$\.?(?P<path>[^`]*)`$")
_WORD = re.compile(r"Invalid enum value (?P<word>.*)$", re.DOTALL)


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


class Bound(NamedTuple):
    """How many there may be of what these marks are found by."""

    most: int
    things: str
    marks: tuple[bytes, ...]


# What each lets through is read in 10 ms or so. Bytes do not tell: of eight megabytes text takes 10 ms, single digits
# 100 ms, empty lists 600 ms, and `1e300` again and again half a minute, as msgspec calculates with all of its digits.
# Marks are those of `_shape`.
BOUNDS = (
    Bound(131_072, "texts, names, lists and objects", (b'"', b"[", b"{")),  # 4,096 messages of several parts have half
    Bound(300_000, "values", (b",",)),  # as many tokens as OpenAI's API takes at a time
    Bound(16_384, "numbers with a fraction or an exponent", (b"0.", b"0e")),
    Bound(256, "numbers of a hundred digits", (b"e000", b"e+000", b"e-000", b"0" * 32)),
)
_DIGITS = bytes.maketrans(b"123456789E", b"000000000e")
AT_ONCE = 1 << 18  # bytes that are looked at without a turn for others


async def check_values(body: bytes) -> None:
    """Raises `Problem` for a body of more values than are made without holding up the event loop."""
    if len(body) <= min(bound.most for bound in BOUNDS):
        return
    if await _excess(_shape(body)) is None:  # what is within texts is counted, too
        return
    await asyncio.sleep(0)
    plain = body.replace(b"\\\\", b"")
    await asyncio.sleep(0)
    plain = plain.replace(b'\\"', b"")
    await asyncio.sleep(0)
    outside = b'"'.join(plain.split(b'"')[::2])  # a mark for each text
    await asyncio.sleep(0)
    if (bound := await _excess(_shape(outside))) is not None:
        message = f"the body of a request has at most {bound.most} {bound.things}"
        raise Problem("too_large", message, code="too_many_values")


def _shape(text: bytes) -> bytes:
    """It, with the same digit for all, and one way to write an exponent."""
    return text.translate(_DIGITS)


async def _excess(shape: bytes) -> Bound | None:
    """The bound that is exceeded, if any is."""
    for bound in BOUNDS:
        if sum(map(shape.count, bound.marks)) > bound.most:
            return bound
        if len(shape) > AT_ONCE:
            await asyncio.sleep(0)
    return None


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
        raise wrong(error, kind) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem("invalid", f"the body is no JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise Problem("invalid", "the body is nested too deeply", code="invalid_json") from None


def wrong(error: msgspec.ValidationError, kind: Any) -> Problem:
    """msgspec's words for a value that does not fit this type, with the path by itself; for a word that is not known,
    all that are."""
    text = str(error)
    found = _AT.search(text)
    path = found["path"] if found else None
    message = text[: found.start()] if found else text
    if (unknown := _WORD.match(message)) and (known := choices(kind, path or "")):
        message = f"expected one of {', '.join(map(repr, known))}, got {unknown['word'][:80]}"
    return Problem("invalid", f"{path}: {message}" if path else message, param=path or None)
