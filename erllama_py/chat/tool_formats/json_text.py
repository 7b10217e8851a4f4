"""JSON in the text of a call: whole, or as far as it has come. Pure."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import jiter


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


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
    """What is known of a value that is not whole: with or without a text that is still being written. None where there
    is none."""
    try:
        return jiter.from_json(
            text.encode(), partial_mode="trailing-strings" if strings else True, allow_inf_nan=False, cache_mode="none"
        )
    except ValueError:
        return None
