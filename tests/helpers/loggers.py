"""The loggers of the process: looked at, and put back as they were."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def logging_put_back() -> Iterator[None]:
    """Levels, handlers and the rest of all loggers, those that are new among them."""
    before = {logger: _state(logger) for logger in _loggers()}
    try:
        yield
    finally:
        for logger in _loggers():
            level, handlers, propagate, disabled = before.get(logger, (logging.NOTSET, [], True, False))
            logger.setLevel(level)
            logger.handlers, logger.propagate, logger.disabled = list(handlers), propagate, disabled


def levels() -> dict[str, tuple[int, bool]]:
    """The level of the root logger and those of the library's, where one is set, and whether one is disabled."""
    mine = [logger for logger in _loggers() if logger.name == "root" or logger.name.startswith("erllama_py")]
    return {one.name: (one.level, one.disabled) for one in mine if one.level or one.disabled}


def _loggers() -> list[logging.Logger]:
    known = logging.Logger.manager.loggerDict.values()
    return [logging.getLogger(), *(logger for logger in known if isinstance(logger, logging.Logger))]


def _state(logger: logging.Logger) -> tuple[int, list[logging.Handler], bool, bool]:
    return logger.level, list(logger.handlers), logger.propagate, logger.disabled
