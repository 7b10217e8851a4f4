"""Segments: anonymous memory that other processes can map, once they were sent its descriptor.

The process that made one writes; all others may only read, so that one that has gone wrong spoils nobody's rows. A
segment never changes its size, which the kernel guarantees (seals): who has it mapped cannot be ended by that.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from typing import Any

import numpy
import numpy.typing

Array = numpy.typing.NDArray[numpy.uint8]

PAGE = mmap.PAGESIZE


class NotShareable(OSError):
    """A descriptor is not that of a segment of another process."""


class Segment:
    """One of this process's own. Raises `OSError` where the system has no memory, address space or descriptor left."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.number = int.from_bytes(os.urandom(8), "little") >> 1  # told apart in all processes
        fd = sealed(size)
        try:
            self._memory: mmap.mmap | None = mmap.mmap(fd, size)
            self.fd = _for_reading(fd)
        except BaseException:
            os.close(fd)
            raise
        self.address = _address(numpy.frombuffer(self._memory, numpy.uint8, 1))

    def __repr__(self) -> str:
        return f"<Segment {self.number:x} of {self.size >> 20} MiB>"

    def array(self, offset: int, nbytes: int) -> Array:
        """Its bytes there. No view of the array outlives the array itself."""
        assert self._memory is not None
        return numpy.frombuffer(self._memory, numpy.uint8, nbytes, offset)

    def forget(self, offset: int, nbytes: int) -> None:
        """Give the memory of these pages back to the system; they are zeros when they are used again."""
        if self._memory is not None:
            with suppress(OSError):
                self._memory.madvise(mmap.MADV_REMOVE, offset, nbytes)

    def close(self) -> None:
        """Close the descriptor; the memory goes with the last view."""
        fd, self.fd, self._memory = self.fd, -1, None
        if fd >= 0:
            os.close(fd)


class Attached:
    """Another process's segment of `size` bytes, mapped to be read. Closes the descriptor. Raises `OSError`."""

    def __init__(self, fd: int, size: int) -> None:
        self.size = size
        try:
            sealed_size(fd, size)
            self._memory = mmap.mmap(fd, size, prot=mmap.PROT_READ)
        finally:
            os.close(fd)

    def __repr__(self) -> str:
        return f"<Attached of {self.size >> 20} MiB>"

    def array(self, offset: int, nbytes: int) -> Array:
        """Its bytes there, which may only be read. No view of the array outlives the array itself."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise NotShareable(f"{nbytes} bytes at {offset} are not within {self.size}")
        return numpy.frombuffer(self._memory, numpy.uint8, nbytes, offset)


def address_of(view: Any) -> int:
    """Where the bytes of a buffer lie."""
    return _address(numpy.frombuffer(view, numpy.uint8))


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def sealed(size: int, name: str = "erllama") -> int:
    """A new file in memory whose size is fixed; the name is for those who look at what a process has open."""
    if not hasattr(os, "memfd_create"):
        raise OSError("this system has no files in memory")
    import fcntl

    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(fd)
        raise
    return fd


def sealed_size(fd: int, size: int) -> None:
    """Raise `NotShareable` unless a file in memory has this size, and always will."""
    import fcntl

    seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    if not seals & fcntl.F_SEAL_SHRINK or os.fstat(fd).st_size != size:
        raise NotShareable("its size is another, or could change")


def _for_reading(fd: int) -> int:
    """A descriptor of the same file that nobody can write by, in place of this one; this one where there is none."""
    try:
        only = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # no /proc
        return fd
    os.close(fd)
    return only
