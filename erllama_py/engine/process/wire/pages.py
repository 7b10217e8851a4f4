"""The page of a recorder, shared by a parent and its child: in memory that has no name and goes with its last user."""

from __future__ import annotations

import mmap
import os

from erllama_py.engine.recorder import PAGE_BYTES, Recorder


def new_page() -> tuple[int, Recorder]:
    """A page of zeros: the descriptor, which the caller closes, and the recorder over it."""
    fd = os.memfd_create("erllama-recorder", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, PAGE_BYTES)
        return fd, open_page(fd)
    except BaseException:
        os.close(fd)
        raise


def open_page(fd: int) -> Recorder:
    """The recorder over the page of a descriptor, which is not needed after that."""
    return Recorder(memoryview(mmap.mmap(fd, PAGE_BYTES)))
