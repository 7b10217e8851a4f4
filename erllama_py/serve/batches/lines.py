"""The lines of a batch: what each has to be, where it lies in its file, and which of them begin alike. Pure.

A `Scan` is fed the file in pieces. It keeps one line at a time, and a digest of each `custom_id`.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MOST_PROBLEMS = 50  # after so many a file is not read any further
BEGINNING = 512  # bytes of a prompt in one piece that are compared with those of others
MOST_MODELS = 32  # names that are remembered
BOM = b"\xef\xbb\xbf"
_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_MISSING = re.compile(r"missing required field `(?P<name>\w+)`")


class Bounds(msgspec.Struct, frozen=True):
    """What a file of a batch may hold."""

    lines: int
    line_bytes: int


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line as its client wrote it."""

    custom_id: Annotated[str, Meta(min_length=1, max_length=512)]
    url: str
    body: msgspec.Raw
    method: Literal["POST"] = "POST"


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked at of a body before its endpoint does."""

    model: str | None = None
    instructions: msgspec.Raw = msgspec.Raw()
    messages: list[msgspec.Raw] | None = None
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()


class Streams(msgspec.Struct, frozen=True):
    """The one option that no line may have. It is looked at alone: what is wrong beside it hides nothing."""

    stream: bool | None = None


class Place(msgspec.Struct, frozen=True, array_like=True):
    """A line of a file that was checked. `group` is the same for lines whose prompts begin alike."""

    line: int
    offset: int
    length: int
    group: int
    custom_id: str


class LineProblem(msgspec.Struct, frozen=True):
    """Why a file is no batch. `line` counts from 1; None where it is about the whole file."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None

    def at(self, file: object) -> str:
        """The sentence, with where it is."""
        return f"{file}{f', line {self.line}' if self.line else ''}: {self.message}"


class Scan:
    """Checks a file. `endpoint` is the one that all lines have to name; without it, that of the first."""

    def __init__(self, bounds: Bounds, endpoint: str | None = None) -> None:
        self.endpoint = endpoint
        self.problems: list[LineProblem] = []
        self.models: list[str] = []
        """The names of models in the lines, the first `MOST_MODELS` of them."""
        self.total = 0
        self._bounds = bounds
        self._ids: set[bytes] = set()
        self._rest, self._offset, self._line = b"", 0, 0
        self._too_long = False  # the rest of a line is passed over

    @property
    def given_up(self) -> bool:
        """Nothing more is to be fed: there is enough to complain of."""
        return len(self.problems) >= MOST_PROBLEMS or self.total > self._bounds.lines

    def feed(self, piece: bytes) -> list[Place]:
        """The lines that this piece of the file has completed, as far as nothing is wrong in them."""
        *whole, self._rest = (self._rest + piece).split(b"\n")
        found = [place for line in whole if (place := self._take(line, len(line) + 1)) is not None]
        if len(self._rest) > self._bounds.line_bytes:
            self._pass_over()
        return found

    def end(self) -> list[Place]:
        """The last line, which needs no line break; and whether there was any."""
        rest, self._rest = self._rest, b""
        place = self._take(rest, len(rest)) if rest else None
        if not self.total and not self.problems:
            self.problems.append(LineProblem("empty_file", "the file has no line"))
        return [] if place is None else [place]

    def _pass_over(self) -> None:
        if not self._too_long:
            self._problem("line_too_long", f"a line has at most {self._bounds.line_bytes} bytes", line=self._line + 1)
        self._too_long = True
        self._offset += len(self._rest)
        self._rest = b""

    def _take(self, data: bytes, size: int) -> Place | None:
        """One line without its line break; `size` with it."""
        offset, self._offset = self._offset, self._offset + size
        self._line += 1
        skipped, self._too_long = self._too_long, False
        if not offset:
            data = data.removeprefix(BOM)
        if skipped or self.given_up or not (text := data.strip()):
            return None
        if len(text) > self._bounds.line_bytes:
            self._problem("line_too_long", f"a line has at most {self._bounds.line_bytes} bytes")
            return None
        self.total += 1
        if self.total > self._bounds.lines:
            self._problem("too_many_tasks", f"a batch has at most {self._bounds.lines} lines")
            return None
        try:
            line = _decode(text)
        except msgspec.ValidationError as error:
            self.problems.append(_wrong(str(error), self._line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._problem("invalid_json_line", "the line is no JSON")
        else:
            return self._checked(line, offset, size)
        return None

    def _checked(self, line: Line, offset: int, size: int) -> Place | None:
        self.endpoint = self.endpoint or line.url
        known = hashlib.blake2b(line.custom_id.encode(errors="replace"), digest_size=16).digest()
        if line.url != self.endpoint:
            self._problem("mismatched_url", f"the url is to be {self.endpoint}, as that of the batch", "url")
        elif known in self._ids:
            self._problem("duplicate_custom_id", "another line has this custom_id", "custom_id")
        else:
            self._ids.add(known)
            head = head_of(line.body)
            self._learn(head.model)
            return Place(self._line, offset, size, group_of(head), line.custom_id)
        return None

    def _learn(self, model: str | None) -> None:
        if model is not None and model not in self.models and len(self.models) < MOST_MODELS:
            self.models.append(model)

    def _problem(self, code: str, message: str, param: str | None = None, line: int | None = None) -> None:
        self.problems.append(LineProblem(code, message, param, line or self._line))


_decode = msgspec.json.Decoder(Line).decode
_decode_head = msgspec.json.Decoder(Head).decode
_decode_streams = msgspec.json.Decoder(Streams).decode


def body_of(data: bytes, custom_id: str) -> bytes | None:
    """The body of a line that was checked; None where it is another one by now."""
    try:
        line = _decode(data.removeprefix(BOM).strip())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return bytes(line.body) if line.custom_id == custom_id else None


def streams(body: bytes) -> bool:
    """Whether a body asks for a stream, whatever else is in it."""
    try:
        return bool(_decode_streams(body).stream)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def head_of(body: bytes | msgspec.Raw) -> Head:
    """What is looked at of a body. What is wrong in it is for its endpoint to say."""
    try:
        return _decode_head(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Head()


def with_model(body: bytes, model: str) -> bytes:
    """A body that names another model. One that is no object stays as it is, for its endpoint to refuse."""
    try:
        given = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return body
    return msgspec.json.encode({**given, "model": model})


def group_of(head: Head) -> int:
    """The same number for bodies of one model whose prompts begin alike: by their instructions and first message, or
    by how the prompt begins where there is but one piece. 63 bits, which JSON's readers can hold."""
    messages = head.messages or []
    first = bytes(messages[0]) if len(messages) > 1 else b"".join(map(bytes, messages))[:BEGINNING]
    rest = first or bytes(head.prompt)[:BEGINNING] or bytes(head.input)[:BEGINNING]
    text = b"\0".join(((head.model or "").encode(errors="replace"), bytes(head.instructions), rest))
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def _wrong(text: str, line: int) -> LineProblem:
    """msgspec's words for a line that does not fit."""
    if (missing := _MISSING.search(text)) is not None:
        return LineProblem("missing_required_parameter", f"there is no {missing['name']}", missing["name"], line)
    found = _AT.search(text)
    message = text[: found.start()] if found else text
    param = found["path"] or None if found else None
    return LineProblem("invalid_line", f"{param}: {message}" if param else message, param, line)
