"""The header of one GGUF file, parsed by ggml: key-values and the table of its tensors.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (magic, version, key-values, tensor
infos, padding, tensor data).
"""

from __future__ import annotations

import ctypes
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from erllama_py.engine.backend import ModelFile
from erllama_py.engine.llama.logs import LogContext
from erllama_py.engine.llama.native import GgufInitParams, Library
from erllama_py.engine.llama.not_gguf import HEAD_BYTES, at_path, what_it_is
from erllama_py.errors import ModelFileNotFound, ModelLoadError, NotAGGUF, TruncatedGGUF, UnsupportedModel

_MAGIC = b"GGUF"
_HEADER_BYTES = 24  # magic, version, number of tensors, number of key-values

# gguf_type: the numbers that fit C types, and the two others that are read here
_NUMBERS: dict[int, Any] = {
    0: ctypes.c_uint8,
    1: ctypes.c_int8,
    2: ctypes.c_uint16,
    3: ctypes.c_int16,
    4: ctypes.c_uint32,
    5: ctypes.c_int32,
    10: ctypes.c_uint64,
    11: ctypes.c_int64,
}
_OCTETS = (0, 1)
_U16, _F32, _BOOL, _STRING, _ARRAY = 2, 6, 7, 8, 9

_WHERE = re.compile(r"^gguf_\w+: ")
_NO_REASON = re.compile(r"^failed to (?:read|seek)\b")  # follows the reason; alone, the file ended
_CUT = re.compile(r"exceeds remaining file size")
_OTHER_ORDER = re.compile(r"mismatch between the host and model endianness")
_VERSION = re.compile(r"bad GGUF version|GGUFv1 is no longer|this GGUF file is version")
_UNKNOWN_TYPE = re.compile(r"tensor '(?P<name>.*)' has invalid ggml type (?P<type>-?\d+)")
_REMOVED_TYPE = re.compile(r"tensor '(?P<name>.*)' of type (?P<type>\d+) \(.*a multiple of block size \(0\)")


def check_file(path: str) -> os.stat_result:
    """The state of the GGUF file at `path`. Raises `ModelFileNotFound`, `NotAGGUF`, `TruncatedGGUF`."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ModelFileNotFound(path, at_path(path) or "not a regular file")
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        problem = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ModelFileNotFound(path, at_path(path) or problem) from error
    if not head.startswith(_MAGIC):
        raise NotAGGUF(path, what_it_is(head))
    if status.st_size < _HEADER_BYTES:
        raise TruncatedGGUF(path, f"{status.st_size} bytes are less than a header")
    return status


@contextmanager
def opened(library: Library, path: str, model_id: str) -> Iterator[Header]:
    """The header of the file at `path`. Raises as `check_file` does, also where the weights are cut off."""
    status = check_file(path)
    with LogContext(model_id) as log:
        handle = library.gguf.init_from_file(os.fsencode(path), GgufInitParams(no_alloc=True, ctx=None))
    if not handle:
        raise header_error(path, log.errors)
    try:
        header = Header(library, handle, path, status)
        if status.st_size < header.needed():
            raise TruncatedGGUF(path, f"it has {status.st_size} of {header.needed()} bytes")
        yield header
    finally:
        library.gguf.free(handle)


def header_error(path: str, said: list[str]) -> ModelLoadError:
    """Why a header could not be read, from what its parser said, in order. Pure.

    The first line has the reason, if there is one: where a file ends within its header, it only says what it was
    reading.
    """
    lines = [_WHERE.sub("", line) for line in said]
    reason = next((line for line in lines if not _NO_REASON.match(line)), None)
    if reason is None:
        return TruncatedGGUF(path, lines[0] if lines else "the header is cut off")
    if _CUT.search(reason):
        return TruncatedGGUF(path, reason)
    if _OTHER_ORDER.search(reason):
        return UnsupportedModel(path, "it is written in the byte order of other machines (big-endian)")
    if _VERSION.search(reason):
        return UnsupportedModel(path, reason)
    if found := _UNKNOWN_TYPE.search(reason):
        problem = f"the tensor {found['name']!r} has the type {found['type']}, which this build of llama.cpp has not"
        return UnsupportedModel(path, problem)
    if found := _REMOVED_TYPE.search(reason):
        problem = f"the tensor {found['name']!r} has the type {found['type']}, which llama.cpp has no more"
        return UnsupportedModel(path, f"{problem}: convert the model again")
    return NotAGGUF(path, reason)


class Header:
    """A parsed header. Values of an unexpected type count as absent: reading them would end the process."""

    def __init__(self, library: Library, handle: Any, path: str, status: os.stat_result) -> None:
        self._gguf, self._handle = library.gguf, handle
        self._data_offset = int(self._gguf.get_data_offset(handle))
        self.n_tensors = int(self._gguf.get_n_tensors(handle))
        self.file = ModelFile(
            path=path,
            size=status.st_size,
            mtime=status.st_mtime_ns,
            inode=status.st_ino,
            metadata_size=self._data_offset,
            first_tensor_size=self._first_tensor_size(),
        )

    def needed(self) -> int:
        """Bytes that the file must have for all tensors to be within it."""
        ends = (
            self._gguf.get_tensor_offset(self._handle, i) + self._gguf.get_tensor_size(self._handle, i)
            for i in range(self.n_tensors)
        )
        return max((self._data_offset + end for end in ends), default=0)

    def _first_tensor_size(self) -> int:
        """Bytes of the tensor that comes first in the file, which need not be the first one listed."""
        offsets = [self._gguf.get_tensor_offset(self._handle, i) for i in range(self.n_tensors)]
        if not offsets:
            return 0
        return int(self._gguf.get_tensor_size(self._handle, offsets.index(min(offsets))))

    def _find(self, key: str) -> tuple[int, int]:
        """Index and type of a key; the type is -1 where there is none."""
        index = self._gguf.find_key(self._handle, key.encode())
        return index, self._gguf.get_kv_type(self._handle, index) if index >= 0 else -1

    def text(self, key: str) -> str | None:
        """A string."""
        index, kind = self._find(key)
        if kind != _STRING:
            return None
        value: bytes = self._gguf.get_val_str(self._handle, index)
        return value.decode("utf-8", "replace")

    def number(self, key: str, default: int = 0) -> int:
        """A whole number of any width."""
        index, kind = self._find(key)
        if kind not in _NUMBERS:
            return default
        return int(_NUMBERS[kind].from_address(self._gguf.get_val_data(self._handle, index)).value)

    def real(self, key: str) -> float | None:
        """A number of the type f32."""
        index, kind = self._find(key)
        if kind != _F32:
            return None
        return float(ctypes.c_float.from_address(self._gguf.get_val_data(self._handle, index)).value)

    def length(self, key: str) -> int:
        """Items of an array."""
        index, kind = self._find(key)
        return int(self._gguf.get_arr_n(self._handle, index)) if kind == _ARRAY else 0

    def texts(self, key: str) -> list[bytes]:
        """The items of an array of strings. 0.4 µs each."""
        index, kind = self._find(key)
        if kind != _ARRAY or self._gguf.get_arr_type(self._handle, index) != _STRING:
            return []
        return [self._gguf.get_arr_str(self._handle, index, item) for item in range(self.length(key))]

    def octets(self, key: str) -> bytes:
        """An array of bytes."""
        index, kind = self._find(key)
        if kind != _ARRAY or self._gguf.get_arr_type(self._handle, index) not in _OCTETS:
            return b""
        return ctypes.string_at(self._gguf.get_arr_data(self._handle, index), self.length(key))

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        index, kind = self._find(key)
        if kind != _BOOL:
            return default
        return bool(ctypes.c_bool.from_address(self._gguf.get_val_data(self._handle, index)).value)

    def short(self, key: str) -> int:
        """A value of the type u16, -1 without one."""
        _, kind = self._find(key)
        return self.number(key) if kind == _U16 else -1

    def per_layer(self, key: str, n_layer: int, default: int = 0) -> list[int]:
        """A value that is one number for all layers or an array with one for each."""
        index, kind = self._find(key)
        if kind != _ARRAY:
            return [self.number(key, default)] * n_layer
        item = _NUMBERS.get(self._gguf.get_arr_type(self._handle, index))
        count = int(self._gguf.get_arr_n(self._handle, index))
        if item is None or not count:
            return [default] * n_layer
        return list((item * count).from_address(self._gguf.get_arr_data(self._handle, index)))[:n_layer]

    def bytes_by_type(self) -> Counter[int]:
        """Bytes of the tensors of each `ggml_type`."""
        sizes: Counter[int] = Counter()
        for i in range(self.n_tensors):
            sizes[self._gguf.get_tensor_type(self._handle, i)] += self._gguf.get_tensor_size(self._handle, i)
        return sizes

    def tensor_types(self) -> dict[str, int]:
        """The `ggml_type` of each tensor."""
        return {
            self._gguf.get_tensor_name(self._handle, i).decode("utf-8", "replace"): self._gguf.get_tensor_type(
                self._handle, i
            )
            for i in range(self.n_tensors)
        }

    def has_tensor(self, name: str) -> bool:
        """Whether a tensor of this name is in this file."""
        return bool(self._gguf.find_tensor(self._handle, name.encode()) >= 0)
