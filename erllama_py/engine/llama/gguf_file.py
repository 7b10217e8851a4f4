"""What a GGUF file says of itself: its header, read without its weights.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (magic, version, key-values, tensor
infos, padding, tensor data).
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from erllama_py.engine.backend import FileFacts
from erllama_py.engine.llama.logs import LogContext
from erllama_py.engine.llama.native import GgufInitParams, Library
from erllama_py.errors import ModelFileNotFound, NotAGGUF, TruncatedGGUF, UnsupportedModel

_MAGIC = b"GGUF"
_HEADER_BYTES = 24  # magic, version, number of tensors, number of key-values
_BYTES_F16 = 2

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
_STRING, _ARRAY = 8, 9


def check_file(path: str) -> int:
    """Size in bytes of the GGUF file at `path`. Raises `ModelFileNotFound`, `NotAGGUF`, `TruncatedGGUF`."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ModelFileNotFound(path, "not a regular file")
        with open(path, "rb") as file:
            magic = file.read(len(_MAGIC))
            size = file.seek(0, os.SEEK_END)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        problem = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ModelFileNotFound(path, problem) from error
    if magic != _MAGIC:
        raise NotAGGUF(path, "it does not begin with the GGUF magic bytes")
    if size < _HEADER_BYTES:
        raise TruncatedGGUF(path, f"{size} bytes are less than a header")
    return size


def read_facts(library: Library, path: str, model_id: str) -> FileFacts:
    """The facts of the file at `path`. Raises as `Backend.inspect` does."""
    size = check_file(path)
    with _opened(library, path, model_id) as header:
        needed = header.needed()
        if size < needed:
            raise TruncatedGGUF(path, f"it has {size} of {needed} bytes")
        architecture = header.text("general.architecture")
        if not architecture:
            raise UnsupportedModel(path, "the file does not name its architecture")
        quant_type = header.quant_type()
        return FileFacts(
            architecture=architecture,
            quant_type=quant_type,
            quant_bits=quant_bits(quant_type),
            n_ctx_train=header.number(f"{architecture}.context_length"),
            sliding_window=header.number(f"{architecture}.attention.sliding_window"),
            n_layer=header.number(f"{architecture}.block_count"),
            file_size=size,
            metadata_size=header.data_offset,
            first_tensor_size=header.first_tensor_size(),
            kv_bytes_per_token=header.kv_bytes_per_token(architecture),
            long_rope_above=header.long_rope_above(architecture),
        )


def quant_bits(quant_type: str) -> int:
    """Bits a weight, as the name of the type has it: `"q4_k_m"` 4, `"iq2_xxs"` 2, `"bf16"` 16; 0 if it does not say."""
    digits = quant_type.lstrip("abcdefghijklmnopqrstuvwxyz").split("_")[0]
    return int(digits) if digits.isdigit() else 0


@contextmanager
def _opened(library: Library, path: str, model_id: str) -> Iterator[_Header]:
    with LogContext(model_id) as log:
        handle = library.gguf.init_from_file(os.fsencode(path), GgufInitParams(no_alloc=True, ctx=None))
    if not handle:
        problem = log.problem("the header is cut off")
        # The parser reads to the end of a file that was cut within its header, and says just this.
        cut = "failed to read" in problem or problem == "the header is cut off"
        raise (TruncatedGGUF if cut else NotAGGUF)(path, problem)
    try:
        yield _Header(library, handle)
    finally:
        library.gguf.free(handle)


class _Header:
    """A parsed header. Values of an unexpected type count as absent: reading them would end the process."""

    def __init__(self, library: Library, handle: Any) -> None:
        self._library, self._gguf, self._handle = library, library.gguf, handle
        self.data_offset = int(self._gguf.get_data_offset(handle))
        self._n_tensors = int(self._gguf.get_n_tensors(handle))

    def needed(self) -> int:
        """Bytes that the file must have for all tensors to be within it."""
        ends = (
            self._gguf.get_tensor_offset(self._handle, i) + self._gguf.get_tensor_size(self._handle, i)
            for i in range(self._n_tensors)
        )
        return self.data_offset + max(ends, default=0)

    def first_tensor_size(self) -> int:
        """Bytes of the tensor that comes first in the file, which need not be the first one listed."""
        offsets = [self._gguf.get_tensor_offset(self._handle, i) for i in range(self._n_tensors)]
        if not offsets:
            return 0
        return int(self._gguf.get_tensor_size(self._handle, offsets.index(min(offsets))))

    def _find(self, key: str) -> tuple[int, int]:
        """Index and type of a key; the type is -1 where there is none."""
        index = self._gguf.find_key(self._handle, key.encode())
        return index, self._gguf.get_kv_type(self._handle, index) if index >= 0 else -1

    def text(self, key: str) -> str | None:
        index, kind = self._find(key)
        if kind != _STRING:
            return None
        value: bytes = self._gguf.get_val_str(self._handle, index)
        return value.decode("utf-8", "replace")

    def number(self, key: str, default: int = 0) -> int:
        index, kind = self._find(key)
        if kind not in _NUMBERS:
            return default
        return int(_NUMBERS[kind].from_address(self._gguf.get_val_data(self._handle, index)).value)

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

    def quant_type(self) -> str:
        """What the file calls itself, or the type that most of its bytes have."""
        named = self._library.file_type(self.number("general.file_type", -1))
        if named:
            return named
        sizes: Counter[int] = Counter()
        for i in range(self._n_tensors):
            sizes[self._gguf.get_tensor_type(self._handle, i)] += self._gguf.get_tensor_size(self._handle, i)
        commonest = sizes.most_common(1)
        return self._library.tensor_types.get(commonest[0][0], "unknown") if commonest else "unknown"

    def long_rope_above(self, architecture: str) -> int:
        """See `FileFacts`."""
        if self._gguf.find_tensor(self._handle, b"rope_factors_long.weight") < 0:
            return 0
        n_ctx_train = self.number(f"{architecture}.context_length")
        return self.number(f"{architecture}.rope.scaling.original_context_length", n_ctx_train)

    def kv_bytes_per_token(self, architecture: str) -> int:
        """Keys and values of one position in f16, over the layers that attend."""
        # No layer is without a tensor: a nonsensical count must not make us count to it.
        n_layer = min(self.number(f"{architecture}.block_count"), self._n_tensors)
        attention = f"{architecture}.attention"
        heads = self.per_layer(f"{attention}.head_count", n_layer)
        kv_heads = self.per_layer(f"{attention}.head_count_kv", n_layer, -1)
        width = self.number(f"{architecture}.embedding_length")
        # Some hybrids say only that every n-th layer attends.
        interval = max(1, self.number(f"{architecture}.full_attention_interval", 1))
        total = 0
        for layer, (head, kv_head) in enumerate(zip(heads, kv_heads, strict=False)):
            if head == 0 or (layer + 1) % interval:
                continue
            size = width // head
            key = self.number(f"{attention}.key_length", size)
            value = self.number(f"{attention}.value_length", size)
            total += (kv_head if kv_head >= 0 else head) * (key + value)
        return total * _BYTES_F16
