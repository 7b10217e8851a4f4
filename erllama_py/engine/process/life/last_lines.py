"""The lines of a child: logged here with the model's id, and the last of them kept for the report of a crash."""

from __future__ import annotations

import re
import threading
from collections.abc import Hashable, Mapping
from typing import Any

from erllama_py.engine.process.life.death import MOST_LINES, Line
from erllama_py.watch.log import LLAMA_CPP, get_logger

_LEVELS = {"debug", "info", "warning", "error", "critical"}
_CHATTER = {"debug", "info"}
_NUMBER = re.compile(r"\d+")


class LastLines:
    """Those of one child. From any thread.

    Of llama.cpp's lines that differ in numbers alone the last one is kept: some come with each decode, and what was
    said before them tells more.
    """

    def __init__(self, model_id: str) -> None:
        self._model_id = model_id
        self._lock = threading.Lock()
        self._last: dict[Hashable, Line] = {}

    def last(self) -> tuple[Line, ...]:
        """The last lines, in the order in which they came."""
        with self._lock:
            return tuple(self._last.values())

    def write(self, line: str) -> None:
        """One of its standard error: what libraries write when they end the process, or Python's trace."""
        self._keep(object(), Line(line))
        get_logger(LLAMA_CPP, source="stderr", model=self._model_id).warning(line)

    def note(self, line: str) -> None:
        """An error of llama.cpp's, which comes as a record too, unless the process ends before that."""
        self._keep(_NUMBER.sub("0", line), Line(line))

    def log(self, name: str, level: str, event: str, facts: Mapping[str, Any]) -> None:
        """A record that the child has logged, under the name of its logger: it is logged as if it had been here."""
        if name == LLAMA_CPP:
            self._keep(_NUMBER.sub("0", event), Line(event, chatter=level in _CHATTER))
        given = {"model": self._model_id, **facts}
        getattr(get_logger(name, **given), level if level in _LEVELS else "warning")(event)

    def _keep(self, kind: Hashable, line: Line) -> None:
        with self._lock:
            self._last.pop(kind, None)
            self._last[kind] = line
            if len(self._last) > 2 * MOST_LINES:
                del self._last[next(iter(self._last))]
