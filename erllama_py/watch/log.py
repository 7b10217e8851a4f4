"""The one logger of the library: structlog, where the application wants it.

An application that configured structlog gets our events through its own processors, under the logger name
`"erllama_py"`. Otherwise they go to the standard library's logger `"erllama_py"`: each record reads `event key='value'`
and carries the key-values in its attribute `erllama`. Where logging is not configured either, Python's last-resort
handler writes warnings and errors to stderr: a model that fails is not silent. llama.cpp's own messages go to
`"erllama_py.llama_cpp"`, which is silent until the application adds a handler.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any, cast

import structlog

NAME = "erllama_py"

LLAMA_CPP = "erllama_py.llama_cpp"

# A handler of its own keeps its many lines from the last-resort handler. An application's handlers get them.
logging.getLogger(LLAMA_CPP).addHandler(logging.NullHandler())

_text = structlog.processors.KeyValueRenderer(drop_missing=True)


def get_logger(name: str = NAME, /, **context: Any) -> structlog.stdlib.BoundLogger:
    """A logger with `context` bound to it.

    Which of the two ways it takes is decided here and now, so call it where you begin to work (in an
    actor's `init`, in a thread's first line), not while modules are imported: then the application had no
    chance to configure structlog yet.
    """
    if structlog.is_configured():
        return cast(structlog.stdlib.BoundLogger, structlog.get_logger(name, **context))
    logger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, structlog.contextvars.merge_contextvars, _to_record],
        wrapper_class=structlog.stdlib.BoundLogger,
        **context,
    )
    return cast(structlog.stdlib.BoundLogger, logger)


def note_error(line: str) -> None:
    """Of llama.cpp, before it is known whether it is to be logged: a process that may end with it keeps it, for the
    report of that. Not this one."""


def _to_record(logger: Any, name: str, event_dict: MutableMapping[str, Any]) -> tuple[tuple[str], dict[str, Any]]:
    """Arguments of the standard library's logging call. The key-values go below one attribute of the record: spread
    over it, a key such as `name` or `module` would clash with the record's own and raise."""
    event = str(event_dict.pop("event", ""))
    keywords = {key: event_dict.pop(key) for key in ("exc_info", "stack_info", "stacklevel") if key in event_dict}
    rendered = _text(logger, name, event_dict)
    # "%" is special in a record's message only when there are arguments, and we pass none.
    message = f"{event} {rendered}" if event_dict else event
    return (message,), {**keywords, "extra": {"erllama": dict(event_dict)}}
