"""Threads whose stacks are large enough for the native code that they call, whatever the application chose for its own.

llguidance compiles by recursion: what the checks of structures let in took more than 1 MiB of stack, and less than 2.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from erllama_py.own_data import lacks, stack_bytes

LEAST_BYTES = 4 << 20  # of address space; only what is used of it takes memory
_STEP = 1 << 20  # some systems want whole pages, of whatever size
FIRST_BYTES = 2 << 20  # of private data, for what a thread needs before its function runs

_lock = threading.Lock()
T = TypeVar("T")


class NoStack(RuntimeError):
    """The system has no stack of the size that a call needs."""


def begin_thread(thread: threading.Thread) -> None:
    """Start a thread with the stack that threads have here, or `LEAST_BYTES` where that is less.

    Raises `RuntimeError` where the system has no thread left, or no private data for one.
    """
    _begin(thread, LEAST_BYTES, or_default=True)


def call_on_stack(least: int, call: Callable[[], T]) -> T:
    """What `call` gives, on a thread that has `least` bytes of stack and ends with it. Address space alone is taken.

    Raises what `call` raises, and `NoStack` where the system has not so much. What a signal raises meanwhile comes when
    the call is over.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:  # raised again by the thread that waits
            errors.append(error)

    thread = threading.Thread(target=work, name="erllama-stack", daemon=True)
    try:
        _begin(thread, -(-least // _STEP) * _STEP, or_default=False)
    except (RuntimeError, MemoryError, ValueError) as error:
        raise NoStack(f"no stack of {least >> 20} MiB: {error}") from error
    interrupted: BaseException | None = None
    while thread.is_alive():
        try:
            thread.join()
        except BaseException as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted
    if errors:
        raise errors[0]
    return results[0]


def _begin(thread: threading.Thread, least: int, *, or_default: bool) -> None:
    """`or_default`: the system's own size is taken where it is no less."""
    with _lock:  # the size is one of the whole process
        chosen, size = threading.stack_size(least), least  # to ask for it is to set it
        if chosen > least or (or_default and not chosen and stack_bytes() >= least):  # 0 is the system's own size
            threading.stack_size(chosen)
            size = chosen or stack_bytes()
        try:
            # One that ends for want of memory before it runs is waited for by `start`, for ever.
            if lacks(size + FIRST_BYTES):
                raise RuntimeError(
                    "can't start new thread: its stack and a bit more are over the limit of private data"
                )
            thread.start()
        finally:
            threading.stack_size(chosen)
