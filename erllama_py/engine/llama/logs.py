"""Where llama.cpp's own messages go: to our logger, each line once, with the model's id.

llama.cpp has one log callback for the process. `receive` is that callback's body: it joins continuation
pieces to whole lines, and finds out whose line it is by the `LogContext` that the calling thread is in.
llama.cpp's level "info" is the chatter of a load and is `debug` for us; warnings and errors keep their level.
"""

from __future__ import annotations

import re
import threading
from typing import Any, Literal

from erllama_py.watch.log import LLAMA_CPP, get_logger, note_error

Level = Literal["debug", "warning", "error"]

# ggml_log_level (ggml.h): 0 none, 1 debug, 2 info, 3 warn, 4 error, 5 continue the last one. The comment in
# llama-cpp-python's `_logger.py` has an older order.
_LEVELS: dict[int, Level] = {3: "warning", 4: "error"}
_CONTINUE = 5

# What llama.cpp says last when a load fails; the reason is in a line before.
_GENERIC = re.compile(r"failed to load model(?: from .*)?$|failed to decode, ret = ")
_PREFIX = re.compile(r"^\w+: (error loading model: |failed to initialize the context: )?")


class LogContext:
    """Lines of this thread belong to `model_id` while the block runs.

    `errors` holds the error lines of the last block. With `hold`, lines are kept until `release`, because their level
    depends on how the call ended. One block at a time for each instance; blocks of different instances may nest.
    """

    def __init__(self, model_id: str, *, hold: bool = False) -> None:
        self.model_id = model_id
        self.errors: list[str] = []
        self._hold = hold
        self._held: list[tuple[Level, str]] = []
        self._outer: LogContext | None = None
        self._logger: Any = None  # made for the first line of a block: a load says hundreds

    def __enter__(self) -> LogContext:
        if self.errors:
            self.errors = []
        self._outer = _thread.context
        _thread.context = self
        self._logger = None
        return self

    def __exit__(self, *exc_info: object) -> None:
        _finish_line()
        _thread.context = self._outer
        self._outer = None

    def take(self, level: Level, line: str) -> None:
        if level == "error":
            self.errors.append(line)
        if self._hold:
            self._held.append((level, line))
        else:
            self._emit(level, line)

    @property
    def held(self) -> list[str]:
        """The lines that are held."""
        return [line for _, line in self._held]

    def release(self, *, expected: bool | re.Pattern[str]) -> None:
        """Let go of the lines held; `expected` makes debug lines of all of them, or of those that it is found in."""
        held, self._held = self._held, []
        for level, line in held:
            is_expected = expected if isinstance(expected, bool) else expected.search(line) is not None
            self._emit("debug" if is_expected else level, line)

    def _emit(self, level: Level, line: str) -> None:
        if self._logger is None:
            self._logger = _logger(self.model_id)
        getattr(self._logger, level)(line)

    def problem(self, otherwise: str) -> str:
        """The last error line that gives a reason, without the name of the C function."""
        for line in reversed(self.errors):
            if not _GENERIC.search(line):
                return _PREFIX.sub("", line)
        return otherwise


class _Thread(threading.local):
    """The context of a thread and the line it has begun."""

    context: LogContext | None = None
    level: Level = "debug"
    begun: str = ""


_thread = _Thread()


def receive(level: int, text: bytes | None, _user_data: object) -> None:
    """The log callback: called by llama.cpp, on any thread. It must not raise."""
    try:
        piece = (text or b"").decode("utf-8", "replace")
        if level != _CONTINUE:
            _finish_line()
            _thread.level = _LEVELS.get(level, "debug")
        _thread.begun += piece
        if piece.endswith("\n"):
            _finish_line()
    except Exception:  # a logger of the application that fails must not end the process through C code
        _thread.begun = ""


def _finish_line() -> None:
    line, _thread.begun = _thread.begun.rstrip(), ""
    if not line:
        return
    if _thread.level == "error":
        note_error(line)
    if _thread.context is not None:
        _thread.context.take(_thread.level, line)
    else:
        getattr(_logger(None), _thread.level)(line)


def _logger(model_id: str | None) -> Any:
    return get_logger(LLAMA_CPP, source="llama.cpp", model=model_id)
