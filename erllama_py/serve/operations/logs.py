"""The logs of a server process, as lines of text or of JSON: those of the library, of the server, and of uvicorn.

For programs that are a server; an application that mounts the server has logs of its own. A line is formatted where
something is logged, and written by a thread, so that a reader of the log that is slow or stuck never holds up the event
loop: then lines are dropped, and counted.
"""

from __future__ import annotations

import logging
import sys
import threading
from contextlib import suppress
from logging.handlers import QueueHandler, QueueListener
from queue import Full, Queue
from types import TracebackType
from typing import Any, Literal, Self, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor

Style = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]
MOST_LINES = 10_000  # that wait to be written: at 300 bytes each, 3 MB
CLOSE_SECONDS = 2.0
LLAMA_CPP = "erllama_py.llama_cpp"  # hundreds of lines for each load


def add_trace(logger: Any, name: str, event: EventDict) -> EventDict:
    """The ids of the current span, in hex as traces have them; nothing where there is none."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is not None and (context := trace.get_current_span().get_span_context()).is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event


_TIME = structlog.processors.TimeStamper(fmt="iso", utc=True)
# What happens to each event of structlog, and to each record of others.
_SHARED: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    add_trace,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    _TIME,
)


class _Lines(QueueHandler):
    """Puts lines into a bounded queue."""

    def __init__(self, lines: Queue[Any]) -> None:
        super().__init__(lines)
        self._waiting = lines
        self.dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        """Never waits."""
        try:
            self._waiting.put_nowait(record)
        except Full:
            self.dropped += 1


class _Writer(QueueListener):
    """Takes them out again, on a thread of its own."""

    def __init__(self, lines: Queue[Any], stream: TextIO) -> None:
        super().__init__(lines, logging.StreamHandler(stream))
        self._waiting, self._all = lines, threading.Event()

    def dequeue(self, block: bool) -> Any:
        """The next line, or the end of them."""
        record: Any = super().dequeue(block)
        if record is None:
            self._all.set()
        return record

    def enqueue_sentinel(self) -> None:
        """The end of them, after what waits, unless nothing is taken out any more."""
        with suppress(Full):
            self._waiting.put(None, timeout=CLOSE_SECONDS)

    def end(self) -> None:
        """Write what waits. A reader that is stuck is not waited for."""
        self.enqueue_sentinel()
        if self._all.wait(CLOSE_SECONDS):
            self.stop()


class Logs:
    """Logging of a process as `configure_logging` has set it up. A context manager; `close` writes what is left."""

    def __init__(self, style: Style, level: Level, stream: TextIO) -> None:
        waiting: Queue[Any] = Queue(MOST_LINES)
        self._lines = _Lines(waiting)
        self._lines.setFormatter(_formatter(style, color=stream.isatty()))
        self._writer = _Writer(waiting, stream)
        self._levels = {logger: logger.level for logger in (logging.getLogger(), logging.getLogger(LLAMA_CPP))}
        number = logging.getLevelNamesMapping()[level.upper()]
        logging.getLogger().setLevel(number)
        logging.getLogger(LLAMA_CPP).setLevel(number if level == "debug" else max(number, logging.WARNING))
        logging.getLogger().addHandler(self._lines)
        structlog.configure(
            processors=[
                structlog.stdlib.filter_by_level, *_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
            ],
            wrapper_class=structlog.stdlib.BoundLogger, logger_factory=structlog.stdlib.LoggerFactory(),
        )  # fmt: skip
        self._writer.start()

    @property
    def dropped(self) -> int:
        """Lines that were not written, because those before them were written too slowly."""
        return self._lines.dropped

    def close(self) -> None:
        """Write what is left, and undo all of it. Allowed twice."""
        if not self._levels:
            return
        logging.getLogger().removeHandler(self._lines)
        structlog.reset_defaults()
        for logger, level in self._levels.items():
            logger.setLevel(level)
        self._levels.clear()
        self._writer.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def configure_logging(style: Style = "text", level: Level = "info", stream: TextIO | None = None) -> Logs:
    """Have everything that is logged written to `stream`, by default stderr, from `level` on, until it is closed.

    `"json"` is one object a line, with `timestamp`, `level`, `logger` and `event`, and what else is known by name.
    uvicorn is to be started with `log_config=None` and `access_log=False`: the server logs requests by itself.
    """
    return Logs(style, level, sys.stderr if stream is None else stream)


def _formatter(style: Style, color: bool) -> logging.Formatter:
    strip = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if style == "json":
        end: tuple[Processor, ...] = (structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_json))
    else:
        # Never tracebacks with the values of variables: they may hold what users wrote.
        plain = structlog.dev.plain_traceback
        end = (structlog.dev.ConsoleRenderer(colors=color, exception_formatter=plain, pad_event_to=0),)
    return structlog.stdlib.ProcessorFormatter(processors=[strip, *end], foreign_pre_chain=_SHARED)


def _json(value: Any, **_: Any) -> str:
    return msgspec.json.encode(value, enc_hook=repr).decode()
