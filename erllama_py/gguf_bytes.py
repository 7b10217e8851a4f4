"""GGUF files as they are written here: key-values and tensors in, bytes out.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3. Standard library only.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9  # types of values
F32, F16 = 0, 1  # types of tensors, as ggml numbers them

_ALIGNMENT = 32  # bytes; GGUF's own where a file names none
_FORMATS = {UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}  # of `struct`

Value = tuple[str, int, Any]  # name, type, value; of an array the value is its type and its items


class Tensor(NamedTuple):
    """One tensor. `shape` has the innermost dimension first; `data` is as long as the shape of its type takes."""

    name: str
    shape: tuple[int, ...]
    type: int
    data: bytes


def write_gguf(out: IO[bytes], values: Sequence[Value], tensors: Sequence[Tensor]) -> None:
    """Write a GGUF file of version 3."""
    out.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values)))
    for name, kind, value in values:
        out.write(_text(name) + struct.pack("<I", kind) + _packed(kind, value))
    offset = 0
    for tensor in tensors:
        out.write(_text(tensor.name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape))
        out.write(struct.pack("<IQ", tensor.type, offset))
        offset += len(tensor.data) + -len(tensor.data) % _ALIGNMENT
    out.write(b"\0" * (-out.tell() % _ALIGNMENT))
    for tensor in tensors:
        out.write(tensor.data)
        out.write(b"\0" * (-len(tensor.data) % _ALIGNMENT))


def _packed(kind: int, value: Any) -> bytes:
    if kind in _FORMATS:
        return struct.pack(_FORMATS[kind], value)
    if kind == STRING:
        return _text(value)
    item_kind, items = value
    return struct.pack("<IQ", item_kind, len(items)) + b"".join(_packed(item_kind, item) for item in items)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
