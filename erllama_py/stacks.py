"""Threads whose stacks are large enough for the native code that they call, whatever the application chose for its own.

llguidance compiles by recursion: what the checks of structures let in took more than 1 MiB of stack, and less than 2.
"""

from __future__ import annotations

import threading

LEAST_BYTES = 4 << 20  # of address space; only what is used of it takes memory

_lock = threading.Lock()


def begin_thread(thread: threading.Thread) -> None:
    """Start a thread with the stack that threads have here, or `LEAST_BYTES` where that is less.

    Raises `RuntimeError` where the system has no thread left.
    """
    with _lock:  # the size is one of the whole process
        chosen = threading.stack_size(LEAST_BYTES)  # to ask for it is to set it
        if not chosen or chosen > LEAST_BYTES:  # 0 is the system's own size
            threading.stack_size(chosen)
        try:
            thread.start()
        finally:
            threading.stack_size(chosen)
