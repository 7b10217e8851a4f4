"""Bytes and times as people write them, in files, variables, options and requests. Pure."""

from __future__ import annotations

import math
import re
from typing import Annotated

from msgspec import Meta

KeepAlive = float | Annotated[str, Meta(max_length=40)]
"""How long a model stays: seconds, or `"5m"`, `"1h30m"`; below 0 or `"forever"`: without end."""

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_PART = re.compile(rf"({_NUMBER})(ns|us|µs|ms|s|m|h|d)")
_DURATION = re.compile(rf"[+-]?(?:{_PART.pattern})+")
_PLAIN = re.compile(rf"[+-]?{_NUMBER}")
_BYTES = re.compile(rf"({_NUMBER})\s*([kmgt]?)(i?b)?", re.IGNORECASE)
WITHOUT_END = 1e9  # seconds: 31 years, longer than any process lives


def seconds_of(given: KeepAlive) -> float | None:
    """How long a model stays without a request; `None`: without end. Raises `ValueError`."""
    seconds = float(given) if isinstance(given, int | float) else _parsed(given.strip())
    if math.isnan(seconds):
        raise ValueError("expected a number of seconds, got nan")
    return None if seconds < 0 or seconds >= WITHOUT_END else seconds


def _parsed(text: str) -> float:
    if text.lower() in ("forever", "never"):
        return -1.0
    if _PLAIN.fullmatch(text):
        return float(text)
    if not _DURATION.fullmatch(text):
        raise ValueError(f'expected seconds, or a time such as "5m" or "1h30m", or "forever"; got {text[:40]!r}')
    total = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    return -total if text[0] == "-" else total


def bytes_of(text: str) -> int:
    """`"8GiB"`, `"8g"`, `"512 MiB"` or a plain number as bytes; units are of 1,024. Raises `ValueError`."""
    found = _BYTES.fullmatch(text.strip())
    if found is None:
        raise ValueError(f'expected a number of bytes, such as "8GiB"; got {text[:40]!r}')
    power = " kmgt".index(found[2].lower() or " ")
    return int(float(found[1]) * 1024**power)


def amount(nbytes: float) -> str:
    """A number of bytes to read: `"94 MiB"`, `"22.5 KiB"`."""
    for unit in ("B", "KiB", "MiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} {unit}" if nbytes >= 100 or nbytes == int(nbytes) else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} GiB"
