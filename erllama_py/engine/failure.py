"""Errors as data: how an engine's errors reach the callers, also from another process.

An error of this library keeps its class and all of its fields. Any other, or one whose fields do not fit, is sent as
the name of its class and its text; where the engine is in this process, `EngineThread.failure` is the error itself.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from typing import Any

import msgspec

from erllama_py.errors import KINDS, ErllamaError

# Most causes that are sent with an error: more than any has; it ends a chain that leads back to itself.
MOST_CAUSES = 8


class ForeignError(Exception):
    """An error of another process that is not one of this library's: the name of its class, and its text."""

    def __init__(self, kind: str, problem: str) -> None:
        super().__init__(kind, problem)
        self.kind, self.problem = kind, problem

    def __str__(self) -> str:
        return f"{self.kind}: {self.problem}" if self.problem else self.kind


class Failure(msgspec.Struct, frozen=True):
    """One error. `facts` are the fields of an `ErllamaError`, and None for any other; `cause` is its `__cause__`."""

    kind: str
    problem: str
    facts: dict[str, Any] | None = None
    cause: Failure | None = None

    def error(self) -> Exception:
        """A new error: the one that this was made of, as far as it can be had."""
        made: Exception
        if self.facts is not None and self.kind in KINDS:
            made = msgspec.convert(self.facts, KINDS[self.kind])
        else:
            made = ForeignError(self.kind, self.problem)
        made.__cause__ = None if self.cause is None else self.cause.error()
        return made


def failure_of(error: BaseException, causes: int = MOST_CAUSES) -> Failure:
    """An error as data."""
    cause = None if error.__cause__ is None or not causes else failure_of(error.__cause__, causes - 1)
    if isinstance(error, ForeignError):
        return Failure(error.kind, error.problem, cause=cause)
    kind, facts = type(error).__name__, None
    try:
        problem = _sendable(str(error))
    except Exception as failure:
        problem = f"its text raises {type(failure).__name__}"
    if isinstance(error, ErllamaError) and KINDS.get(kind) is type(error):
        with suppress(AttributeError, msgspec.ValidationError):  # a backend may make one with other fields than it has
            found = {field.name: _sendable(getattr(error, field.name)) for field in fields(error)}
            msgspec.convert(found, type(error))
            facts = found
    return Failure(kind, problem, facts, cause)


def _sendable(fact: Any) -> Any:
    """Text may hold what has no UTF-8 form: a lone surrogate of a caller's becomes a question mark. A tuple is a list
    on the way, and a struct a dict."""
    if isinstance(fact, msgspec.Struct):
        return _sendable(msgspec.structs.asdict(fact))
    if isinstance(fact, dict):
        return {_sendable(name): _sendable(one) for name, one in fact.items()}
    if isinstance(fact, tuple):
        return [*map(_sendable, fact)]
    return fact.encode(errors="replace").decode() if isinstance(fact, str) else fact
