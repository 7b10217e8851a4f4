"""What a child does with an error that nobody has caught: it says what it was, and ends at once, with a code that tells
memory that was short from all else.

That holds for each of its threads, for without one of them it would wait for ever, or be waited for; and for what has
no caller, finalizers and callbacks of libraries, where memory is short. In order it could not end any more: what is to
be done for that takes memory too.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from erllama_py.engine.children.codes import FAILED, OUT_OF_MEMORY
from erllama_py.engine.children.entry import say
from erllama_py.own_data import lacks, stack_bytes

_NO_THREAD = "can't start new thread"  # of `threading`, for any reason
_LITTLE = 1 << 20  # bytes: with less than that left nothing works


def end_uncaught() -> None:
    """Do so from now on."""
    threading.excepthook = _in_thread
    sys.unraisablehook = _unraisable(sys.unraisablehook)


def end_with(error: BaseException | None) -> NoReturn:
    """Say what has gone wrong, and end the process."""
    code = FAILED
    try:
        code = OUT_OF_MEMORY if is_of_memory(error) else FAILED
        traceback.print_exception(error)
        say(f"done {code}")
    finally:
        os._exit(code)


def is_of_memory(error: BaseException | None) -> bool:
    """Whether memory was short. Python does not always say so: an import may fail without a reason then."""
    return isinstance(error, MemoryError) or lacks(stack_bytes() if _NO_THREAD in str(error) else _LITTLE)


def _in_thread(args: threading.ExceptHookArgs) -> None:
    end_with(args.exc_value)


def _unraisable(otherwise: Callable[[Any], object]) -> Callable[[Any], object]:
    def take(args: Any) -> object:
        return end_with(args.exc_value) if isinstance(args.exc_value, MemoryError) else otherwise(args)

    return take
