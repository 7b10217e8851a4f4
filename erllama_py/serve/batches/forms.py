"""A form of `multipart/form-data` taken apart as it comes: its fields, and the bytes of its one file. Pure.

starlette would put the file into a temporary one first, and write that with the threads of the application.
"""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

FILE = "file"
MOST_FIELD = 1024  # bytes of a field, and of a name
MOST_PARTS = 16
MOST_HEADERS = 8192  # bytes of those of one part


class BadForm(Exception):
    """Why a form cannot be read, in a sentence."""


class Form:
    """Takes a form apart. `fields` are complete after `end`, `filename` as soon as the file has begun."""

    def __init__(self, content_type: str) -> None:
        media, options = parse_options_header(content_type.encode("latin-1", "replace"))
        if media != b"multipart/form-data" or not options.get(b"boundary"):
            raise BadForm("a form is expected, as multipart/form-data with a boundary")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": self._begin, "on_header_field": self._header, "on_header_value": self._value,
                "on_header_end": self._header_end, "on_headers_finished": self._headers_end,
                "on_part_data": self._data, "on_part_end": self._end, "on_end": self._over,
            },
        )  # fmt: skip
        self._names, self._values, self._headers = b"", b"", 0
        self._disposition = b""
        self._parts = 0
        self._name: str | None = None
        self._field = b""
        self._bytes: list[bytes] = []
        self._whole = False

    def feed(self, data: bytes) -> bytes:
        """What this piece has of the file. Raises `BadForm`."""
        try:
            self._parser.write(data)
        except FormParserError:
            raise BadForm("the form is damaged") from None
        found, self._bytes = b"".join(self._bytes), []
        return found

    def end(self) -> None:
        """There is nothing more to come. Raises `BadForm` where there should be."""
        if not self._whole:
            raise BadForm("the form ends in the middle")
        if self.filename is None:
            raise BadForm(f"there is no file in the form: its field is called {FILE!r}")

    # --- what the parser finds -----------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise BadForm(f"a form has at most {MOST_PARTS} parts")
        self._name, self._field, self._disposition, self._headers = None, b"", b"", 0

    def _header(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._names += data[start:end]

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._values += data[start:end]

    def _count(self, size: int) -> None:
        self._headers += size
        if self._headers > MOST_HEADERS:
            raise BadForm("the headers of a part are too long")

    def _header_end(self) -> None:
        if self._names.lower() == b"content-disposition":
            self._disposition = self._values
        self._names = self._values = b""

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = _text(options.get(b"name", b""))
        if self._name != FILE:
            return
        if self.filename is not None:
            raise BadForm("one file is taken at a time")
        self.filename = _text(options.get(b"filename", b"")) or FILE

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._name == FILE:
            self._bytes.append(data[start:end])
            return
        self._field += data[start:end]
        if len(self._field) > MOST_FIELD:
            raise BadForm(f"a field has at most {MOST_FIELD} bytes")

    def _end(self) -> None:
        if self._name and self._name != FILE:
            self.fields[self._name] = _text(self._field)

    def _over(self) -> None:
        self._whole = True


def _text(data: bytes) -> str:
    """A name or a field. What is no text in it is replaced, and what cannot be printed too."""
    text = data[:MOST_FIELD].decode(errors="replace")
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
