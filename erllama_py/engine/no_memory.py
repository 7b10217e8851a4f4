"""What libraries say where memory is short, and where a thread cannot begin. Pure."""

from __future__ import annotations

import re

# Of C++, of ggml's allocators and its backends for GPUs, of Python, of Rust, of OpenBLAS.
_NO_MEMORY = re.compile(
    r"bad_alloc|MemoryError|out of memory|[cC]annot allocate memory|"
    r"failed to allocate|unable to allocate|insufficient memory|not enough memory|ErrorOutOfDeviceMemory|"
    r"memory allocation of \d+ bytes failed|Memory allocation still failed"
)
# Of Python, of OpenMP, of C++.
_NO_THREAD = re.compile(r"can't start new thread|Thread creation failed|Resource temporarily unavailable")


def says_no_memory(text: str) -> bool:
    """Whether a text is of memory that is short."""
    return _NO_MEMORY.search(text) is not None


def says_no_thread(text: str) -> bool:
    """Whether a text is of a thread that could not begin: its stack is memory too, but others may lack as well."""
    return _NO_THREAD.search(text) is not None
