"""The logger of a child, in place of `erllama_py.watch.log`: its records go to the parent, which logs them.

`stand_in()` puts this module there before anything of the engine is imported: structlog alone takes longer to import
than all else that a child needs. Records that come before there is a sink wait for it. Imports little.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable
from typing import Any

from erllama_py.engine.children.entry import say

NAME = "erllama_py"
LLAMA_CPP = "erllama_py.llama_cpp"

_MOST_WAITING = 1000
_MOST_LINE = 500
_PLAIN = (str, int, float, bool, type(None))

# Takes the name of the logger, the level, the event, and the facts, which are texts, numbers and None.
Sink = Callable[[str, str, str, dict[str, Any]], object]


class _Records:
    """Where records go."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sink: Sink | None = None
        self._waiting: list[tuple[str, str, str, dict[str, Any]]] = []

    def send_to(self, sink: Sink) -> None:
        with self._lock:
            self._sink, waiting = sink, self._waiting
            self._waiting = []
            for record in waiting:
                sink(*record)

    def put(self, name: str, level: str, event: str, facts: dict[str, Any]) -> None:
        sink = self._sink
        if sink is None:
            with self._lock:
                if self._sink is None:
                    if len(self._waiting) < _MOST_WAITING:
                        self._waiting.append((name, level, event, facts))
                    return
                sink = self._sink
        sink(name, level, event, facts)


_records = _Records()


class ChildLogger:
    """What the engine uses of a logger: an event and facts, by level."""

    def __init__(self, name: str, facts: dict[str, Any]) -> None:
        self._name, self._facts = name, facts

    def debug(self, event: str, **facts: Any) -> None:
        """Of interest to those who look for a fault."""
        self._put("debug", event, facts)

    def info(self, event: str, **facts: Any) -> None:
        """Something that is as it should be."""
        self._put("info", event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        """Something that should be known."""
        self._put("warning", event, facts)

    def error(self, event: str, **facts: Any) -> None:
        """Something that has failed."""
        self._put("error", event, facts)

    def _put(self, level: str, event: str, facts: dict[str, Any]) -> None:
        error = facts.pop("exc_info", None)
        if error is not None:
            facts["exception"] = _trace(error)
        told = {name: _plain(one) for name, one in (self._facts | facts).items()}
        _records.put(self._name, level, _sendable(event), told)


def _trace(error: object) -> str:
    """The traceback of `exc_info`: an error, or True for the one that is being handled."""
    import traceback  # of which most children have no need

    found = error if isinstance(error, BaseException) else sys.exc_info()[1]
    return "" if found is None else "".join(traceback.format_exception(found))


def _plain(fact: object) -> object:
    if isinstance(fact, _PLAIN) and not isinstance(fact, str):
        return fact
    return _sendable(str(fact))


def _sendable(text: str) -> str:
    """What has no UTF-8 form, as the name of a file may have none, is a question mark."""
    return text.encode(errors="replace").decode()


def get_logger(name: str = NAME, /, **context: Any) -> ChildLogger:
    """As `erllama_py.watch.log.get_logger`."""
    return ChildLogger(name, context)


def note_error(line: str) -> None:
    """As `erllama_py.watch.log.note_error`. What is told like this is with the parent whatever happens next, which a
    record on a socket may not be."""
    say(f"error {line[:_MOST_LINE]}")


def send_to(sink: Sink) -> None:
    """Have all records go there, those that wait first. It is called by any thread, and must not block."""
    _records.send_to(sink)


def stand_in() -> None:
    """Be `erllama_py.watch.log` in this process."""
    package: Any = types.ModuleType("erllama_py.watch")
    package.__path__, package.log = [], sys.modules[__name__]
    sys.modules["erllama_py.watch"], sys.modules["erllama_py.watch.log"] = package, package.log
