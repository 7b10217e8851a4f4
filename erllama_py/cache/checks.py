"""What an application may hand to the cache, checked at its door: bad arguments raise there and affect nobody else.

Each function gives the value as the cache takes it, or raises `RequestError`. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TypeVar, get_args

from erllama_py.cache.keys import Identity, pack_tokens
from erllama_py.errors import RequestError
from erllama_py.errors.shown import shown
from erllama_py.tiers.messages import SaveReason

# What the header of a row's file has room for: `tiers.row_file.MAX_BUILD_BYTES`.
MOST_BUILD_BYTES = 4096

_REASONS = get_args(SaveReason)
T = TypeVar("T")


def identity(value: object) -> Identity:
    """An `Identity` whose fields can be hashed and stored."""
    value = _a(value, Identity, "an identity is an `Identity`")
    for name in ("fingerprint", "ctx_params_hash"):
        _need(_is_digest(getattr(value, name)), f"the {name} of an identity is 32 bytes", getattr(value, name))
    bits = value.quant_bits
    _need(type(bits) is int and 0 <= bits < 256, "the quant_bits of an identity are an int from 0 to 255", bits)
    return value


def tokens(value: object) -> bytes:
    """Token ids, packed."""
    _need(isinstance(value, Iterable) and not isinstance(value, str), "tokens are a list of ints", value)
    assert isinstance(value, Iterable)
    try:
        return pack_tokens(list(value))
    except (TypeError, ValueError, OverflowError):
        raise RequestError(f"tokens are ints from 0 to 2**32 - 1, not {shown(value)}") from None


def key(value: object) -> bytes:
    """The key of a row: 32 bytes, or 64 hex digits."""
    if isinstance(value, str) and re.fullmatch(r"[0-9a-fA-F]{64}", value):
        return bytes.fromhex(value)
    _need(_is_digest(value), "a key is 32 bytes or 64 hex digits", value)
    assert isinstance(value, bytes)
    return value


def keys(value: object) -> list[object]:
    """Keys of rows, each to be checked by itself: no text, whose letters would be taken for them."""
    _need(isinstance(value, Iterable) and not isinstance(value, str | bytes), "keys are a list of keys", value)
    assert isinstance(value, Iterable)
    return list(value)


def tier(value: object) -> str:
    """The name of a tier, whether it runs or not."""
    return _a(value, str, "a tier is given by its name, a str")


def tiers(value: object) -> tuple[str, ...]:
    """Names or kinds of tiers, or one of them."""
    if isinstance(value, str):
        return (value,)
    _need(isinstance(value, Iterable) and not isinstance(value, bytes), "tiers are a list of names or kinds", value)
    assert isinstance(value, Iterable)
    return tuple(map(tier, value))


def nbytes(value: int) -> int:
    """A number of bytes."""
    _need(type(value) is int and value >= 0, "a number of bytes is an int of 0 or more", value)
    return value


def start(value: int, end: int) -> int:
    """Where a row starts that ends at `end`."""
    _need(type(value) is int and 0 <= value < end, f"a row starts at an int from 0 on, before its end at {end}", value)
    return value


def payload(value: bytes | bytearray | memoryview) -> memoryview:
    """The bytes of a row, wherever they lie."""
    try:
        return memoryview(value).cast("B")
    except TypeError:
        raise RequestError(f"a payload is bytes, or an array that lies in one piece, not {shown(value)}") from None


def logits(value: object) -> bytes:
    """The logits at a row's end."""
    return _a(value, bytes, "logits are bytes")


def seconds(value: object) -> float:
    """What computing a row took."""
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        number = math.inf
    _need(math.isfinite(number) and number >= 0, "prefill_seconds are a finite number of 0 or more", value)
    return number


def build(value: object) -> str:
    """The build of whatever computed a row, in words."""
    try:
        fits = isinstance(value, str) and len(value.encode()) <= MOST_BUILD_BYTES
    except UnicodeEncodeError:
        fits = False
    _need(fits, f"a build is a text of at most {MOST_BUILD_BYTES} bytes", value)
    return str(value)


def reason(value: SaveReason) -> SaveReason:
    """Why a row is saved."""
    _need(value in _REASONS, f"a reason is one of {', '.join(_REASONS)}", value)
    return value


def _is_digest(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == 32


def _a(value: object, kind: type[T], rule: str) -> T:
    if not isinstance(value, kind):
        raise RequestError(f"{rule}, not {shown(value)}")
    return value


def _need(holds: bool, rule: str, value: object) -> None:
    if not holds:
        raise RequestError(f"{rule}, not {shown(value)}")
