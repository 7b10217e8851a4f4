"""JSON in the text of a call: whole, or as far as it has come. Pure."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import jiter


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


_TEXT = re.compile(r'"(?:[^"\\]|\\.)*("?)', re.DOTALL)
_DIGITS = frozenset("0123456789")
_DECODER = json.JSONDecoder(parse_constant=_refuse)


def whole_json(text: str, start: int) -> tuple[Any, int] | None:
    """The value that begins here and where it ends; None where it is not whole, or none at all."""
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None


def json_value(text: str) -> Any:
    """The value of a text that is one. Raises `ValueError`."""
    try:
        value, end = _DECODER.raw_decode(text.strip())
    except RecursionError:
        raise ValueError("it nests too deeply") from None
    if end != len(text.strip()):
        raise ValueError("more follows")
    return value


def begun_json(text: str, *, strings: bool) -> Any:
    """What is known of a value that is not whole: with or without a text that is still being written, without a number
    that may go on. None where there is none."""
    if text[-1:] in _DIGITS and not _in_text(text):
        text = text.rstrip("0123456789.eE+-")
    try:
        return jiter.from_json(
            text.encode(), partial_mode="trailing-strings" if strings else True, allow_inf_nan=False, cache_mode="none"
        )
    except ValueError:
        return None


def _in_text(text: str) -> bool:
    """Whether JSON ends within a text."""
    if "\\" not in text:
        return text.count('"') % 2 == 1
    return any(not found[1] for found in _TEXT.finditer(text))
