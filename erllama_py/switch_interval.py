"""The interpreter's switch interval, shared by all runtimes of a process.

It is one setting for the whole process, so the shortest interval that a runtime asks for counts, and what was set
before is restored after the last release, in any order.
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
