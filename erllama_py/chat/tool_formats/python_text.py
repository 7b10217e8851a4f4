"""Calls in the syntax of Python, `f(a=1, b="x")`, read without running or compiling anything: whole, or as far as they
have come. Pure."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

MOST_NESTED = 64

_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[^\W\d][\w.-]*")
_NUMBER = re.compile(r"[+-]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?(?:\d+|\Z))?")  # its exponent may be cut
_BEGUN = ("+", "-", ".", "+.", "-.")  # numbers that are cut before their first digit
_BODY = {quote: re.compile(rf"(?:[^{quote}\\\n]|\\.)*", re.DOTALL) for quote in "\"'"}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(\n)|(.))", re.DOTALL)
_SHORT = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0"}
_WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_UNKNOWN = object()  # a value that may change with the next character


class PythonCall(NamedTuple):
    """One call; `end` is where it ends, or -1 where it does not."""

    name: str
    arguments: dict[str, Any]
    end: int


class NoCall(ValueError):
    """The text is no call, whatever follows."""


def python_call(text: str, start: int) -> PythonCall:
    """The call that begins here. Raises `NoCall`."""
    reader = _Reader(text, start)
    return reader.call()


class _Reader:
    """Reads one call. What is incomplete is the end of the text: `is_cut` then, and all return."""

    def __init__(self, text: str, start: int) -> None:
        self.text, self.at, self._cut = text, start, False

    def is_cut(self) -> bool:
        """Whether the text has ended."""
        return self._cut

    def call(self) -> PythonCall:
        name = self._name()
        arguments: dict[str, Any] = {}
        if self.is_cut() or not self._take("("):
            return PythonCall("", {}, -1)
        while not self.is_cut() and not self._ahead(")"):
            key = self._name()
            if self.is_cut() or not self._take("="):
                break
            value = self._value(0)
            if value is not _UNKNOWN:
                arguments[key] = value
            if self.is_cut() or self._ahead(")") or not self._take(","):
                break
        if self.is_cut() or not self._take(")"):
            return PythonCall(name, arguments, -1)
        return PythonCall(name, arguments, self.at)

    def _peek(self) -> str:
        """The next character that is no white space; empty at the end, which is a cut."""
        found = _SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at
        self._cut = self.at >= len(self.text)
        return "" if self.is_cut() else self.text[self.at]

    def _ahead(self, wanted: str) -> bool:
        return self._peek() == wanted

    def _take(self, wanted: str) -> bool:
        found = self._peek()
        if self.is_cut():
            return False
        if found != wanted:
            raise NoCall(f"{wanted!r} is expected, not {found!r}")
        self.at += 1
        return True

    def _name(self) -> str:
        if not self._peek():
            return ""
        found = _NAME.match(self.text, self.at)
        if found is None:
            raise NoCall(f"a name is expected, not {self.text[self.at]!r}")
        self.at = found.end()
        self._cut = self.at >= len(self.text)
        return found[0]

    def _value(self, depth: int) -> Any:
        if depth > MOST_NESTED:
            raise NoCall(f"values nest more than {MOST_NESTED} deep")
        first = self._peek()
        if not first:
            return _UNKNOWN
        if first in "\"'":
            return self._string(first)
        if first in "[(":
            return self._items("]" if first == "[" else ")", depth)
        if first == "{":
            return self._pairs(depth)
        return self._word()

    def _word(self) -> Any:
        found = _NUMBER.match(self.text, self.at) or _NAME.match(self.text, self.at)
        if found is None:
            if self.text[self.at :] in _BEGUN:
                self._cut = True
                return _UNKNOWN
            raise NoCall(f"a value is expected, not {self.text[self.at]!r}")
        self.at = found.end()
        if self.at >= len(self.text):
            self._cut = True
            return _UNKNOWN
        if found[0] in _WORDS:
            return _WORDS[found[0]]
        return _number(found[0])

    def _string(self, quote: str) -> str:
        body = _BODY[quote].match(self.text, self.at + 1)
        assert body is not None  # it may be empty
        self.at = body.end()
        if self.at < len(self.text) and self.text[self.at] == quote:
            self.at += 1
            return _unescaped(body[0])
        if self.text[self.at :] not in ("", "\\"):
            raise NoCall("a text ends in the middle of a line")
        self._cut = True
        return _unescaped(re.sub(r"\\(?:x.?|u.{0,3}|U.{0,7})?$", "", body[0]))

    def _items(self, close: str, depth: int) -> list[Any]:
        found: list[Any] = []
        self.at += 1
        while not self._ahead(close):
            if self.is_cut():
                return found
            value = self._value(depth + 1)
            if value is not _UNKNOWN:
                found.append(value)
            if self.is_cut() or not (self._ahead(close) or self._take(",")):
                return found
        self.at += 1
        return found

    def _pairs(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self.at += 1
        while not self._ahead("}"):
            if self.is_cut():
                return found
            key = self._value(depth + 1)
            if self.is_cut() or not self._take(":"):
                return found
            value = self._value(depth + 1)
            if value is not _UNKNOWN:
                found[key if isinstance(key, str) else str(key)] = value
            if self.is_cut() or not (self._ahead("}") or self._take(",")):
                return found
        self.at += 1
        return found


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        found = float(text)
    except ValueError:
        raise NoCall(f"{text[:40]!r} is no value") from None
    if not math.isfinite(found):
        raise NoCall(f"{text[:40]} is too large a number")
    return found


def _unescaped(body: str) -> str:
    if "\\" not in body:
        return body

    def one(found: re.Match[str]) -> str:
        number = found[1] or found[2] or found[3]
        if number:
            code = int(number, 16)
            return chr(code) if code <= 0x10FFFF else "\ufffd"
        return "" if found[4] else _SHORT.get(found[5], found[5])

    text = _ESCAPE.sub(one, body)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
