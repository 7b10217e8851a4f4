"""The interpreter's switch interval, shared by all runtimes of a process.

It is one setting for the whole process, so the shortest wish of those who hold one counts, and what was set
before comes back when the last lets go, in whatever order they do.
"""

from __future__ import annotations

import sys
import threading

_lock = threading.Lock()
_held: list[float] = []
_before = 0.0


def hold(seconds: float) -> None:
    """Let no thread keep the interpreter for longer than `seconds` while another waits, until `release`."""
    global _before
    with _lock:
        if not _held:
            _before = sys.getswitchinterval()
        _held.append(seconds)
        sys.setswitchinterval(min(_before, *_held))


def release(seconds: float) -> None:
    """Take back one `hold(seconds)`."""
    with _lock:
        _held.remove(seconds)
        sys.setswitchinterval(min(_before, *_held) if _held else _before)
