"""What the threads of a child do, on its standard error: at a fatal signal the one that it hit, and all of them when
the parent asks by SIGUSR1.

At a fatal signal the others run on: reading what they do may fail there, and then another signal is seen than the one
that ended the process. Their traces would also push out what a library has said last.

Python's own handlers write it without its lock, so a thread that hangs in native code does not keep it from being
written.

A trace has no name of a thread, but those of its functions. So what computes on its own thread begins in a frame with a
name of its own (`in_frame`), and who reads the trace knows which of several it was (`frame_hit`).
"""

from __future__ import annotations

import faulthandler
import re
import signal
import sys
from collections.abc import Callable, Sequence
from types import FunctionType

_FATAL = re.compile(r"^Fatal Python error: ")
_FRAME = re.compile(r'^  File ".*", line \d+ in computes_(\d+)$')


def show_traces() -> None:
    """Do so from now on. The signal ends the process all the same, if it is a fatal one."""
    faulthandler.enable(sys.stderr, all_threads=False)
    faulthandler.register(signal.SIGUSR1, sys.stderr, all_threads=True, chain=False)


def in_frame(number: int, body: Callable[[], None]) -> Callable[[], None]:
    """`body`, called by a function that has this number in its name."""

    def computes() -> None:
        body()

    name = f"computes_{number}"
    code = computes.__code__.replace(co_name=name)
    named: Callable[[], None] = FunctionType(code, computes.__globals__, name, None, computes.__closure__)
    return named


def frame_hit(lines: Sequence[str]) -> int | None:
    """The number of the frame that a fatal signal has hit, from the last lines of a process. None where that is not
    told: it was a thread of a library's, or another of ours. Pure."""
    fatal = [place for place, line in enumerate(lines) if _FATAL.match(line)]
    if not fatal:
        return None
    numbers = {int(found[1]) for line in lines[fatal[-1] :] if (found := _FRAME.match(line))}
    return numbers.pop() if len(numbers) == 1 else None
