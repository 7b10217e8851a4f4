"""The interpreter's switch interval, shared by all runtimes of a process.

It is one setting for the whole process, so the shortest wish of those who hold one counts, and what was set
before comes back when the last lets go, in whatever order they do.
"""

from __future__ import annotations

import sys
import threading

_lock = threading.Lock()
_held: dict[object, float] = {}
_before = 0.0


def hold(owner: object, seconds: float) -> None:
    """Let no thread keep the interpreter for longer than `seconds` while another waits, until `release(owner)`."""
    global _before
    with _lock:
        if not _held:
            _before = sys.getswitchinterval()
        _held[owner] = seconds
        sys.setswitchinterval(min([_before, *_held.values()]))


def release(owner: object) -> None:
    """Take back what `owner` holds; no effect when that is nothing."""
    with _lock:
        if _held.pop(owner, None) is not None:
            sys.setswitchinterval(min([_before, *_held.values()]))
