"""Catching what C code prints to stderr by `fprintf`, without touching the process's file descriptors.

C's `stderr` is a variable. `captured_stderr` points it to a stream in memory for the time of one call, so
what other threads of Python write to stderr meanwhile is not lost: that goes to descriptor 2, past stdio.
Where the variable cannot be set (other C libraries keep it in read-only memory) nothing is caught.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ROOM = 4096  # bytes; what goes beyond is dropped, a message's beginning is what is wanted


class Captured:
    """`text` is there after the block."""

    text = ""


class _MemoryStream:
    """A `FILE *` over a buffer. Made once and never closed: another thread may be printing to it just now."""

    def __init__(self, libc: ctypes.CDLL, variable: ctypes.c_void_p) -> None:
        self._libc = libc
        self._variable = variable
        self._buffer = ctypes.create_string_buffer(_ROOM)
        libc.fmemopen.restype = ctypes.c_void_p
        libc.fmemopen.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
        libc.rewind.argtypes = libc.fflush.argtypes = [ctypes.c_void_p]
        self._file = libc.fmemopen(self._buffer, _ROOM, b"w")

    def start(self) -> int | None:
        self._libc.rewind(self._file)
        ctypes.memset(self._buffer, 0, _ROOM)
        before, self._variable.value = self._variable.value, self._file
        return before

    def stop(self, before: int | None) -> str:
        self._variable.value = before
        self._libc.fflush(self._file)
        return self._buffer.value.decode("utf-8", "replace")


_lock = threading.Lock()
_stream: _MemoryStream | None = None


@contextmanager
def captured_stderr() -> Iterator[Captured]:
    """What C code prints to `stderr` within the block. One block at a time in the process; keep it short."""
    captured = Captured()
    with _lock:
        stream = _memory_stream()
        if stream is None:
            yield captured
            return
        before = stream.start()
        try:
            yield captured
        finally:
            captured.text = stream.stop(before)


def _memory_stream() -> _MemoryStream | None:
    global _stream
    if _stream is None:
        libc = ctypes.CDLL(None)
        if hasattr(libc, "gnu_get_libc_version"):
            name = "stderr"
        elif sys.platform == "darwin":
            name = "__stderrp"
        else:
            return None
        _stream = _MemoryStream(libc, ctypes.c_void_p.in_dll(libc, name))
    return _stream
