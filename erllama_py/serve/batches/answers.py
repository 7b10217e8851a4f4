"""The lines of a batch's output: written as OpenAI's clients read them, and read again to learn what is done. Pure.

What is answered is known by the output itself: a line that is whole counts, one that is torn is cut off. Its `id` ends
with the number of the line that it answers.
"""

from __future__ import annotations

import msgspec

from erllama_py.serve.batches.lines import Place

_encode = msgspec.json.Encoder().encode


class _Known(msgspec.Struct, frozen=True):
    id: str


_decode = msgspec.json.Decoder(_Known).decode


def answered(batch: str, place: Place, status: int, request_id: str, body: bytes) -> bytes:
    """A line with what an endpoint has answered, which is JSON."""
    if b"\n" in body:
        body = _encode(msgspec.json.decode(body))
    response = {"status_code": status, "request_id": request_id, "body": msgspec.Raw(body)}
    return _line(batch, place, response, None)


def unanswered(batch: str, place: Place, code: str, message: str) -> bytes:
    """A line with why no endpoint was asked."""
    return _line(batch, place, None, {"code": code, "message": message})


def _line(batch: str, place: Place, response: object, error: object) -> bytes:
    line_id = _id(batch, place.line)
    return _encode({"id": line_id, "custom_id": place.custom_id, "response": response, "error": error}) + b"\n"


def _id(batch: str, line: int | str) -> str:
    return f"batch_req_{batch.removeprefix('batch_')}_{line}"


class Answered:
    """Which lines a file of a batch's answers has, fed in pieces."""

    def __init__(self, batch: str) -> None:
        self._begin = _id(batch, "")
        self.lines: set[int] = set()
        self.size = 0
        """Bytes of the lines that are whole; what follows them is to be cut off."""
        self._rest = b""
        self._torn = False

    def feed(self, piece: bytes) -> None:
        """One more piece. After a line that is none of this batch nothing counts."""
        if self._torn:
            return
        *whole, self._rest = (self._rest + piece).split(b"\n")
        for line in whole:
            try:
                found = _decode(line).id
                number = int(found.removeprefix(self._begin))
            except (msgspec.DecodeError, RecursionError, ValueError):
                number = 0
            if number <= 0 or found != f"{self._begin}{number}":
                self._torn = True
                return
            self.lines.add(number)
            self.size += len(line) + 1
