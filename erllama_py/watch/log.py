"""The one logger of the library: structlog, where the application wants it.

An application that configured structlog gets our events through its own processors, under the logger name
`"erllama_py"`. Otherwise they go to the standard library's logger `"erllama_py"`, which has a `NullHandler`:
nothing appears on stdout or stderr until the application adds a handler, and each record then reads
`event key='value'` and carries the key-values in its attribute `erllama`.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any, cast

import structlog

NAME = "erllama_py"

_stdlib = logging.getLogger(NAME)
_stdlib.addHandler(logging.NullHandler())

_text = structlog.processors.KeyValueRenderer(drop_missing=True)


def get_logger(**context: Any) -> structlog.stdlib.BoundLogger:
    """A logger with `context` bound to it.

    Which of the two ways it takes is decided here and now, so call it where you begin to work (in an
    actor's `init`, in a thread's first line), not while modules are imported: then the application had no
    chance to configure structlog yet.
    """
    if structlog.is_configured():
        return cast(structlog.stdlib.BoundLogger, structlog.get_logger(NAME, **context))
    logger = structlog.wrap_logger(
        _stdlib,
        processors=[structlog.stdlib.filter_by_level, structlog.contextvars.merge_contextvars, _to_record],
        wrapper_class=structlog.stdlib.BoundLogger,
        **context,
    )
    return cast(structlog.stdlib.BoundLogger, logger)


def _to_record(logger: Any, name: str, event_dict: MutableMapping[str, Any]) -> tuple[tuple[str], dict[str, Any]]:
    """Arguments of the standard library's logging call.

    The key-values go below one attribute of the record: spread over it, a key such as `name` or `module`
    would clash with the record's own and raise.
    """
    event = str(event_dict.pop("event", ""))
    keywords = {key: event_dict.pop(key) for key in ("exc_info", "stack_info", "stacklevel") if key in event_dict}
    rendered = _text(logger, name, event_dict)
    # "%" is special in a record's message only when there are arguments, and we pass none.
    message = f"{event} {rendered}" if event_dict else event
    return (message,), {**keywords, "extra": {"erllama": dict(event_dict)}}
